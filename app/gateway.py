"""The one place that wires: builds every part, opens them in order, runs the loops in one group."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import structlog

from app.access import keys
from app.access.authenticator import Authenticator
from app.access.limits import Limiter
from app.access.scopes import Scope
from app.api.services import HttpLimits, Services
from app.backup import check
from app.children import engine_process, reverse_proxy
from app.comfy.client import ComfyClient
from app.comfy.files import EngineFiles
from app.comfy.supervisor import Supervisor
from app.database import Database
from app.errors import Misconfigured
from app.gpu.card import Card
from app.gpu.estimate import Estimator
from app.gpu.monitor import GpuMonitor
from app.instance import sole_instance
from app.jobs import stager
from app.jobs.collect import Collector
from app.jobs.dispatcher import Dispatcher
from app.jobs.engine import Engine
from app.jobs.feed import Feed
from app.jobs.gate import Gate
from app.jobs.janitor import Janitor, Retention
from app.jobs.queue import Fence
from app.jobs.recovery import release_orphans
from app.jobs.runner import Runner
from app.jobs.stager import Stager
from app.jobs.states import Caps
from app.jobs.stations import LocalStations, Station, Stations
from app.jobs.submission import Submission
from app.jobs.supply import Supply, TableSupply
from app.media.files import clear_spool
from app.media.intake import Intake
from app.media.prepare import Preparer
from app.media.sandbox import Sandbox
from app.media.store import BlobStore
from app.outbound import Outbound
from app.parts import (
    VERSION,
    bounds,
    cards_of_engines,
    is_loopback,
    keep_by_status,
    make_data_dir,
    media_limits,
    media_storage,
    member,
    patience,
)
from app.schema import upgrade
from app.settings import Settings
from app.telemetry import Metrics
from app.webhooks.delivery import Delivery
from app.workflows.registry import load_workflows

if TYPE_CHECKING:
    from app.jobs.overflow import Overflow

log = structlog.get_logger(__name__)

_CHECKED_AT_START = 64 * 1024 * 1024
"""Bytes up to which the whole database is read before the start: about a tenth of a second."""


def utc_now() -> datetime:
    """The time."""
    return datetime.now(UTC)


def stop_process() -> None:
    """End the process as an operator would: a gateway without one of its loops is a corpse."""
    os.kill(os.getpid(), signal.SIGTERM)


class Gateway:
    """Every part, built and not yet opened."""

    def __init__(
        self,
        settings: Settings,
        *,
        cards: Sequence[Card] | None = None,
        now: Callable[[], datetime] = utc_now,
        on_crash: Callable[[], None] = stop_process,
        worker: bool = False,
    ) -> None:
        """Build the parts. Nothing is read or written yet, but for the workflows and the cards.

        Args:
            settings: What the operator decided.
            cards: One for each engine, in place of NVML's.
            now: The clock.
            on_crash: What to do when a loop crashed.
            worker: Run jobs of a shared store, where a gateway runs none itself.

        Raises:
            Misconfigured: A worker without a shared store.
            CardUnreadable: Admission asks NVML, and there is no card to read.
            ManifestError: A workflow folder cannot be used.
        """
        self.settings = settings
        self.on_crash = on_crash
        data = settings.data_dir
        self.spool = data / "spool"
        self.db = Database(settings.store_url)
        self.member = member(settings, self.db, worker=worker)
        self.now = now = now if self.member is None else self.member.clock
        self.is_worker = worker
        runs_jobs = self.member is None or worker
        self.metrics = Metrics()
        self.feed = Feed()
        self.workflows = load_workflows(
            settings.workflows_dir, overrides=settings.workflow_overrides
        )
        self.sandbox = Sandbox(limits=media_limits(settings))
        self.objects = media_storage(settings)
        self.store = BlobStore(
            self.db,
            now=now,
            objects=self.objects,
            new_in_objects=settings.media_new == "objects",
        )
        self.preparer = Preparer(
            db=self.db, store=self.store, sandbox=self.sandbox, spool=self.spool, now=now
        )
        self.outbound = Outbound(allow_hosts=settings.allow_hosts)
        self.intake = Intake(
            db=self.db,
            store=self.store,
            sandbox=self.sandbox,
            spool=self.spool,
            fetch=self.outbound.fetch,
            now=now,
            free_bytes=self.free_bytes,
            min_free_bytes=settings.min_free_bytes,
        )
        self.estimator = Estimator(database=self.db, margin_mib=settings.vram_margin_mib)
        self.stager = Stager(db=self.db, store=self.store, preparer=self.preparer)
        self.collector = Collector(store=self.store, sandbox=self.sandbox, spool=self.spool)
        self.caps = Caps(settings.max_attempts, settings.max_stalls, settings.poison_deaths)
        self.retention = Retention(
            keep=timedelta(seconds=settings.keep_seconds),
            keep_bytes=settings.keep_bytes,
            min_free_bytes=settings.min_free_bytes,
            uploads=timedelta(seconds=settings.upload_ttl_seconds),
            idempotency=timedelta(seconds=settings.idempotency_seconds),
            keep_by_status=keep_by_status(settings),
        )
        self.janitor = Janitor(
            db=self.db,
            store=self.store,
            preparer=self.preparer,
            feed=self.feed,
            retention=self.retention,
            engine_files=[EngineFiles(settings.comfyui_dir, corner=stager.SUBFOLDER)]
            if settings.comfyui_dir is not None
            else [],
            now=now,
        )
        self.delivery = Delivery(
            db=self.db,
            outbound=self.outbound,
            now=now,
            rng=random.Random(),  # noqa: S311 - jitter, not a secret
            observe=self.metrics.webhook,
        )
        urls = settings.comfyui_urls if runs_jobs else ()
        found = cards if cards is not None or not runs_jobs else cards_of_engines(settings)
        self.stations = [
            self._station(number, url, found[number] if found else None)
            for number, url in enumerate(urls)
        ]
        dispatchers = [station.dispatcher for station in self.stations]
        for dispatcher in dispatchers:
            dispatcher.all = dispatchers
        self.engines: Stations = LocalStations(self.stations)
        if self.member is not None and worker:
            self.member.employ(self.stations)
        elif self.member is not None:
            self.engines = self.member.remote
        self.overflow = self._overflow()
        self.proxy = reverse_proxy(settings)
        self.authenticator = Authenticator(db=self.db, now=now)
        self.limiter = Limiter(
            requests_per_minute=settings.requests_per_minute,
            upload_bytes_per_hour=settings.upload_bytes_per_hour,
            queued_jobs=settings.queued_jobs_per_key,
            watchers=settings.watchers_per_key,
        )
        self.submission = Submission(
            db=self.db,
            workflows=self.workflows,
            intake=self.intake,
            stations=self.engines,
            estimator=self.estimator,
            limiter=self.limiter,
            check_url=self.outbound.check,
            free_bytes=self.free_bytes,
            bounds=bounds(settings),
            now=now,
        )
        self.stopping = asyncio.Event()

    # --- building ------------------------------------------------------------------------------

    def _station(self, number: int, url: str, card: Card | None) -> Station:
        settings = self.settings
        client = ComfyClient(url)
        name = f"engine-{number}"
        if self.member is not None:
            name = f"{self.member.name}/{name}"
        engine = Engine(
            name=name,
            client=client,
            workflows=self.workflows,
            supervisor=engine_process(
                settings, number, url, client=client, card=card, on_change=self._wake_all
            ),
            on_change=self._wake_all,
            on_restart=self.metrics.engine_restarts.labels(name).inc,
        )
        monitor = GpuMonitor(card=card, margin_mib=settings.vram_margin_mib)
        gate = Gate(
            engine=engine,
            monitor=monitor,
            estimator=self.estimator,
            backfill_seconds=settings.backfill_seconds,
        )

        def make_runner(fence: Fence, *, need_mib: int, wake: Callable[[], None]) -> Runner:
            return Runner(
                fence=fence,
                engine=engine,
                gate=gate,
                need_mib=need_mib,
                db=self.db,
                workflows=self.workflows,
                stager=self.stager,
                collector=self.collector,
                feed=self.feed,
                patience=patience(settings),
                caps=self.caps,
                previews=True,
                wake=wake,
                metrics=self.metrics,
                now=self.now,
            )

        supply: Supply = TableSupply(self.db)
        if self.member is not None:
            supply = self.member.supply(
                backfill_seconds=settings.backfill_seconds,
                capacity_mib=lambda: monitor.capacity_mib,
            )
        dispatcher = Dispatcher(
            engine=engine,
            db=self.db,
            supply=supply,
            gate=gate,
            feed=self.feed,
            make_runner=make_runner,
            caps=self.caps,
            on_end=self.delivery.notify,
            leaves=self.member is not None,
            now=self.now,
        )
        return Station(dispatcher, gate)

    def _overflow(self) -> Overflow | None:
        """The endpoint for bursts, where there is one."""
        settings = self.settings
        if settings.serverless_url is None:
            return None
        if settings.serverless_key is None:
            raise Misconfigured("GATEWAY_SERVERLESS_URL needs GATEWAY_SERVERLESS_KEY.")
        if self.member is not None:
            raise Misconfigured(
                "GATEWAY_SERVERLESS_URL is for a gateway that runs jobs itself; on a shared store "
                "more workers take what waits."
            )
        # Imported here, so that who has no endpoint does without.
        from app.endpoint import Endpoint  # noqa: PLC0415
        from app.jobs.overflow import Overflow  # noqa: PLC0415
        from app.jobs.remote import RemoteRunner, Tools  # noqa: PLC0415

        endpoint = Endpoint(settings.serverless_url, settings.serverless_key.get_secret_value())

        def make_runner(fence: Fence, its: Overflow) -> RemoteRunner:
            tools = Tools(
                endpoint=endpoint,
                db=self.db,
                workflows=self.workflows,
                store=self.store,
                collector=self.collector,
                feed=self.feed,
                fetch=self.outbound.fetch,
                caps=self.caps,
                metrics=self.metrics,
                max_video_bytes=settings.max_upload_bytes,
                max_run_seconds=settings.max_run_seconds,
                interrupt_seconds=settings.interrupt_seconds,
                now=self.now,
                on_refused=its.refused,
                on_trouble=its.trouble,
            )
            return RemoteRunner(fence, tools)

        return Overflow(
            endpoint=endpoint,
            db=self.db,
            feed=self.feed,
            make_runner=make_runner,
            after_seconds=settings.overflow_seconds,
            most=settings.serverless_jobs,
            on_end=self.delivery.notify,
            now=self.now,
        )

    def services(self) -> Services:
        """What the API needs of all this."""
        settings = self.settings
        return Services(
            db=self.db,
            workflows=self.workflows,
            intake=self.intake,
            store=self.store,
            feed=self.feed,
            stations=self.engines,
            overflow=self.overflow,
            submission=self.submission,
            authenticator=self.authenticator,
            limiter=self.limiter,
            metrics=self.metrics,
            retention=self.retention,
            limits=HttpLimits(
                max_body_bytes=settings.max_body_bytes,
                max_upload_bytes=settings.max_upload_bytes,
            ),
            loopback=is_loopback(settings.host),
            wake_deliveries=self.delivery.notify,
            free_bytes=self.free_bytes,
            min_free_bytes=settings.min_free_bytes,
            stopping=self.stopping,
            version=VERSION,
            now=self.now,
            cors_origins=settings.cors_origins,
            redirect_media=settings.media_delivery == "redirect",
            media_origin=None if self.objects is None else self.objects.origin,
            public_url=settings.public_url,
        )

    def free_bytes(self) -> int:
        """Free bytes of the disk that holds the data directory."""
        return shutil.disk_usage(self.settings.data_dir).free

    def _wake_all(self) -> None:
        self.engines.wake()

    # --- life ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Open everything, run every loop, and close in the order that loses nothing."""
        settings = self.settings
        make_data_dir(settings.data_dir)
        async with AsyncExitStack() as stack:
            stack.enter_context(sole_instance(settings.data_dir))
            clear_spool(self.spool)
            await asyncio.to_thread(self._prepare_store)
            self.db.open()
            stack.callback(self.db.close)
            stack.push_async_callback(self.sandbox.aclose)
            stack.push_async_callback(self.outbound.aclose)
            for station in self.stations:
                stack.push_async_callback(station.dispatcher.engine.client.aclose)
            await self._require_key()
            self._announce()
            await self.estimator.refresh()
            if self.overflow is not None:
                stack.push_async_callback(self.overflow.endpoint.aclose)
            if self.member is not None:
                await self.member.join(settings.data_dir)
            else:
                await self._release_orphans()
            loops = [asyncio.create_task(self._loop(name, fn)) for name, fn in self._loops()]
            try:
                yield
            finally:
                await self._stop(loops)

    async def _release_orphans(self) -> None:
        names = [station.dispatcher.engine.name for station in self.stations]
        if self.overflow is not None:
            names.append(self.overflow.name)
        released = await self.db.write(
            lambda session: release_orphans(session, engines=names, caps=self.caps, now=self.now())
        )
        if released:
            log.warning("attempts of engines that are gone were requeued", attempts=released)

    async def _require_key(self) -> None:
        """Refuse to be reachable by others without a key.

        Raises:
            Misconfigured: The host is not loopback and no admin key exists.
        """
        settings = self.settings
        count = await self.db.read(lambda session: keys.count_active(session, scope=Scope.ADMIN))
        if count or (is_loopback(settings.host) and not settings.make_first_key):
            return
        if not settings.make_first_key:
            raise Misconfigured(
                f"The host {settings.host} is not loopback, and there is no admin key. Make one "
                "with `steadydancer keys create NAME --scope admin`, or set "
                "GATEWAY_MAKE_FIRST_KEY=true to have one made and printed once."
            )
        made = await self.db.write(
            lambda session: keys.create(session, name="first", scopes=[Scope.ADMIN], now=self.now())
        )
        # Standard output, not the log: this is shown once and must not be kept by a log collector.
        sys.stdout.write(f"The first admin key, shown this once: {made.key}\n")
        sys.stdout.flush()

    def _prepare_store(self) -> None:
        path = self.db.path
        if path is not None and path.exists() and path.stat().st_size <= _CHECKED_AT_START:
            check(path)
        before, after = upgrade(self.db.engine, self.settings.migrations_dir)
        if before != after:
            log.info("database upgraded", before=before, after=after)

    def _loops(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        once: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("janitor", self.janitor.run),
            ("webhooks", self.delivery.run),
        ]
        loops = once if self.member is None else self._shared_loops([run for _, run in once])
        loops = [*loops, ("estimates", self.estimator.run)]
        for station in self.stations:
            dispatcher = station.dispatcher
            loops += [
                (dispatcher.engine.name, dispatcher.engine.watch),
                ("dispatcher", dispatcher.run),
                ("card", station.gate.observe),
            ]
        if self.overflow is not None:
            loops.append((self.overflow.name, self.overflow.run))
        loops += [(child.name, child.run) for child in self._children()]
        return loops

    def _shared_loops(
        self, once: Sequence[Callable[[], Awaitable[None]]]
    ) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        if self.member is None:
            return []
        loops = self.member.loops(
            feed=self.feed,
            caps=self.caps,
            once=once,
            notify=self.delivery.notify,
        )
        return [*loops, ("engine files", self.janitor.run_engines)]

    def _children(self) -> list[Supervisor]:
        engines = [station.dispatcher.engine.supervisor for station in self.stations]
        return [child for child in (*engines, self.proxy) if child is not None]

    async def _loop(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        try:
            await run()
        except Exception:
            log.exception("a loop crashed; the gateway stops", loop=name)
            self.on_crash()
            raise

    async def _stop(self, loops: Sequence[asyncio.Task[None]]) -> None:
        """Stop claiming, stop following, then the children, then the rest."""
        self.stopping.set()
        self.feed.publish_all()
        if self.member is not None:
            self.member.stop()
        for station in self.stations:
            await station.dispatcher.stop()
        if self.overflow is not None:
            await self.overflow.stop()
        for child in self._children():
            await child.stop()
        for task in loops:
            task.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        if self.member is not None:
            await self.member.leave()

    def _announce(self) -> None:
        for station in self.stations:
            card = station.gate.monitor.card
            log.info(
                "engine planned",
                engine=station.dispatcher.engine.name,
                url=station.dispatcher.engine.client.base_url,
                owned=station.dispatcher.engine.supervisor is not None,
                gpu=getattr(card, "name", None),
                gpu_uuid=getattr(card, "uuid", None),
            )
        if self.settings.admission == "off":
            log.warning("admission is off: jobs start without a look at the GPU")
        if self.db.journal_mode not in {"wal", "none"}:
            log.warning(
                "the file system cannot hold SQLite's WAL; a rollback journal is used",
                journal_mode=self.db.journal_mode,
            )
