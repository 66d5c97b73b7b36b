"""A process's place among others on one queue: what it runs beside what a lone gateway runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import structlog

from app.database import Database
from app.errors import StorageFull, StoreUnavailable
from app.fleet import roster
from app.fleet.clock import DatabaseClock
from app.fleet.held import HeldJobs
from app.fleet.leader import Leader
from app.fleet.listener import Listener
from app.fleet.puller import Puller
from app.fleet.rescue import Rescue
from app.fleet.stations import RemoteStations
from app.jobs.distribution import next_class, vram_class
from app.jobs.feed import Feed
from app.jobs.states import Caps
from app.jobs.stations import LocalStations, Station

log = structlog.get_logger(__name__)

_RESTART_SECONDS = 2.0

Loop = tuple[str, Callable[[], Awaitable[None]]]


class Member:
    """One process of a fleet, a worker or not.

    Attributes:
        name: What it is called; the names of its engines begin with it.
        clock: The database's time.
        remote: Every engine of the fleet.
    """

    def __init__(
        self, db: Database, *, name: str, version: str, lease: timedelta, worker: bool
    ) -> None:
        self.clock = DatabaseClock(db)
        # A worker wants to know of the others only whether one has a larger card.
        look = lease.total_seconds() if worker else 1.0
        self.remote = RemoteStations(db, lease=lease, look_seconds=look)
        self._db = db
        self.name = name
        self._version = version
        self._lease = lease
        self._held: list[HeldJobs] = []
        self._pullers: list[Puller] = []
        self._stations: Sequence[Station] = ()
        self._me: roster.Self | None = None
        self._draining = False

    # --- building ------------------------------------------------------------------------------

    def supply(
        self, *, backfill_seconds: float, capacity_mib: Callable[[], int | None]
    ) -> HeldJobs:
        """The supply of one more engine of this worker."""
        held = HeldJobs(
            db=self._db,
            backfill_seconds=backfill_seconds,
            now=self.clock,
            larger=self._is_larger,
            capacity_mib=capacity_mib,
        )
        self._held.append(held)
        return held

    def employ(self, stations: Sequence[Station]) -> None:
        """Say which engines this worker has, in the order of their supplies."""
        self._stations = stations
        for held, station in zip(self._held, stations, strict=True):
            held.dispatcher = station.dispatcher
            name = station.dispatcher.engine.name
            self._pullers.append(
                Puller(self._db.url, held, name=name, lease=self._lease, now=self.clock)
            )

    def _is_larger(self, mib: int) -> bool:
        """Whether a card serves the class above that of a need: a little more is no help."""
        above = next_class(vram_class(mib))
        return any(
            one.ready and (one.capacity_mib is None or vram_class(one.capacity_mib) >= above)
            for one in self.remote.look()
        )

    # --- life ----------------------------------------------------------------------------------

    async def join(self, data_dir: Path) -> None:
        """Take the database's time, and a worker's name, before anything runs.

        Raises:
            StoreUnavailable: The database is away.
        """
        await self.clock.look()
        await self.remote.refresh()
        if not self._stations:
            return
        self._me = roster.Self(
            name=self.name,
            identity=_identity(data_dir),
            incarnation=str(uuid4()),
            version=self._version,
            engines=tuple(one.dispatcher.engine.name for one in self._stations),
        )
        me = self._me
        while not await self._db.write(
            lambda session: roster.enlist(session, me, lease=self._lease)
        ):
            log.warning("another worker has this name; waiting until it is gone", name=me.name)
            await asyncio.sleep(1)

    def loops(
        self,
        *,
        feed: Feed,
        caps: Caps,
        once: Sequence[Callable[[], Awaitable[None]]],
        notify: Callable[[], None],
    ) -> list[Loop]:
        """What to run.

        Args:
            feed: Woken by what other processes do.
            caps: When a job whose workers are lost is given up.
            once: What only one process of the fleet runs.
            notify: Called when messages may be due.
        """
        local = LocalStations(self._stations)

        def changed(job_id: str) -> None:
            feed.publish(job_id)
            notify()

        def gap() -> None:
            feed.publish_all()
            local.wake()

        listener = Listener(self._db.url, on_change=changed, on_cancel=local.cancel, on_gap=gap)
        rescue = Rescue(self._db, caps=caps, lease=self._lease, now=self.clock)
        leader = Leader(self._db.url, [*once, rescue.run])
        loops: list[Loop] = [
            ("listener", listener.run),
            ("workers", self.remote.run),
        ]
        if not self._stations:
            return [*loops, ("leader", leader.run), ("clock", self._tell_time)]
        pulls: list[Loop] = [
            (f"jobs of {one.dispatcher.engine.name}", self._pull(puller, one))
            for puller, one in zip(self._pullers, self._stations, strict=True)
        ]
        return [*loops, *pulls, ("report", self._report)]

    def stop(self) -> None:
        """Fetch no more jobs and let go of those that have not begun."""
        for puller in self._pullers:
            puller.stop()

    async def leave(self) -> None:
        """Give the worker's name back, once nothing runs here any more."""
        if self._me is None:
            return
        me = self._me
        try:
            await self._db.write(lambda session: roster.leave(session, me))
        except (StorageFull, StoreUnavailable) as error:
            log.warning("cannot leave; this worker is missed in a while", reason=error.detail)

    # --- the loops -----------------------------------------------------------------------------

    def _pull(self, puller: Puller, station: Station) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            monitor = station.gate.monitor
            while not puller.stopping:
                try:
                    if not monitor.enabled or monitor.capacity_mib is not None:
                        await puller.run(monitor.capacity_mib)
                except Exception as error:  # noqa: BLE001 - of any kind: jobs must be fetched again
                    log.warning("jobs cannot be fetched", reason=f"{type(error).__name__}: {error}")
                await asyncio.sleep(_RESTART_SECONDS)

        return run

    async def _report(self) -> None:
        """Say how the engines stand, well within the lease, and obey what is asked."""
        if self._me is None:
            raise RuntimeError("a worker reports after it has joined")
        me = self._me
        while True:
            try:
                await self.clock.look()
                states = [station.look() for station in self._stations]
                draining = await self._db.write(
                    lambda session, states=states: roster.report(session, me, states),  # type: ignore[misc]
                    durable=False,
                )
            except (StorageFull, StoreUnavailable) as error:
                log.warning("cannot report", reason=error.detail)
            else:
                if draining is None:
                    raise RuntimeError(f"another process works under the name {me.name}")
                if draining != self._draining:
                    self._draining = draining
                    await LocalStations(self._stations).drain(draining=draining)
            await asyncio.sleep(min(2.0, self._lease.total_seconds() / 6))

    async def _tell_time(self) -> None:
        while True:
            await asyncio.sleep(self._lease.total_seconds())
            try:
                await self.clock.look()
            except (StorageFull, StoreUnavailable) as error:
                log.warning("the database's time is not known anew", reason=error.detail)


def _identity(data_dir: Path) -> str:
    """The data directory's own id, made once. The directory is held by this process already."""
    path = data_dir / "identity"
    if not path.is_file():
        path.write_text(str(uuid4()), encoding="ascii")
    return path.read_text(encoding="ascii").strip()
