"""The endpoint that takes what waits too long: claims old jobs and starts their attempts there.

To the rest of the gateway it is one more engine, by the name `serverless`. It has no card that is
read, no queue that is staged, and no graph: its workers are gateways of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import uuid4

import sqlalchemy as sa
import structlog
from sqlmodel import Session, col, select

from app.database import Database
from app.endpoint import RUN_BYTES, Endpoint, EndpointError, Health
from app.errors import StorageFull, StoreUnavailable
from app.jobs import queue
from app.jobs.feed import Feed
from app.jobs.queue import Fence
from app.jobs.recovery import unfinished
from app.jobs.remote import RemoteRunner
from app.jobs.states import Status
from app.jobs.tables import Job, JobInput
from app.media.tables import Blob, Upload

log = structlog.get_logger(__name__)

NAME = "serverless"
"""What its attempts are claimed for."""

MEDIA_BYTES = (RUN_BYTES - 128 * 1024) // 4 * 3
"""Media that fit into one `/run` as base64, beside the rest of the request."""

_TROUBLE_SECONDS = 30.0
"""How long nothing is sent after a call that failed."""

_HANDING_SECONDS = 5.0
"""How long a stop waits for the answers to `/run`: a job whose id is not known is lost."""

_ADOPT_SECONDS = 10.0
_MOST_LEFT = 10_000

State = Literal["starting", "ready", "unreachable", "unhealthy", "stopped"]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Jobs that waited long enough.

    Attributes:
        job_ids: Those that can be sent, in the order of the queue.
        too_large: How many cannot, for their media are too large.
    """

    job_ids: Sequence[str]
    too_large: int


def waited_too_long(
    session: Session, *, before: datetime, now: datetime, limit: int, without: Sequence[str]
) -> Waiting:
    """Give the queued jobs of a time before `before`, without those named."""
    size = (
        sa.select(sa.func.coalesce(sa.func.sum(col(Blob.bytes)), 0))
        .select_from(JobInput)
        .join(Upload, col(Upload.id) == col(JobInput.upload_id))
        .join(Blob, col(Blob.id) == col(Upload.blob_id))
        .where(col(JobInput.job_id) == col(Job.id))
        .scalar_subquery()
    )
    old = (
        col(Job.status) == Status.QUEUED,
        sa.or_(col(Job.not_before).is_(None), col(Job.not_before) <= now),
        col(Job.created_at) <= before,
    )
    found = session.exec(
        select(Job.id)
        .where(*old, size <= MEDIA_BYTES, col(Job.id).not_in(without))
        .order_by(col(Job.priority).desc(), col(Job.id))
        .limit(limit)
    ).all()
    large = sa.select(sa.func.count()).select_from(Job).where(*old, size > MEDIA_BYTES)
    return Waiting(found, int(session.execute(large).scalar_one()))


class Overflow:
    """Gives queued jobs to the endpoint.

    Attributes:
        name: As an engine's.
        draining: Whether new jobs are started no more.
        state: As an engine's.
        detail: Why it is not ready, or what its workers do.
        verdict: What it thinks of the queue.
    """

    def __init__(
        self,
        *,
        endpoint: Endpoint,
        db: Database,
        feed: Feed,
        make_runner: Callable[[Fence, Overflow], RemoteRunner],
        after_seconds: float,
        most: int,
        on_end: Callable[[], None] = lambda: None,
        tick_seconds: float = 1.0,
        look_seconds: float = 15.0,
        now: Callable[[], datetime],
    ) -> None:
        self.name = NAME
        self.endpoint = endpoint
        self.draining = False
        self._stopping = False
        self.state: State = "starting"
        self.detail: str | None = None
        self.verdict = "No job waited too long."
        self._db = db
        self._feed = feed
        self._make_runner = make_runner
        self._after = timedelta(seconds=after_seconds)
        self._most = most
        self._on_end = on_end
        self._tick_seconds = tick_seconds
        self._look_seconds = look_seconds
        self._now = now
        self._looked_at = float("-inf")
        self._trouble_until = float("-inf")
        self._left: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._runners: dict[str, tuple[RemoteRunner, asyncio.Task[None]]] = {}

    # --- for others ------------------------------------------------------------------------------

    @property
    def jobs(self) -> list[str]:
        """Jobs that are at the endpoint."""
        return list(self._runners)

    def wake(self) -> None:
        """Look at the queue again now."""
        self._wake.set()

    def cancel(self, job_id: str) -> None:
        """Tell the attempt of a job, if it runs here, that the job is to be canceled."""
        if job_id in self._runners:
            self._runners[job_id][0].cancel.set()

    def refused(self, job_id: str, why: str) -> None:
        """Never send this job again; the local engines have it."""
        log.warning("the endpoint does not take a job; it is left here", job_id=job_id, reason=why)
        self._left[job_id] = None
        if len(self._left) > _MOST_LEFT:
            del self._left[next(iter(self._left))]

    def trouble(self, why: str) -> None:
        """Send nothing for a while."""
        self._trouble_until = asyncio.get_running_loop().time() + _TROUBLE_SECONDS
        self._set("unreachable", why)

    async def stop(self) -> None:
        """Claim no more and stop following. What runs at the endpoint goes on there."""
        self.draining = self._stopping = True
        with suppress(TimeoutError):
            async with asyncio.timeout(_HANDING_SECONDS):
                for runner, _ in tuple(self._runners.values()):
                    await runner.settled.wait()
        tasks = [task for _, task in self._runners.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- the loop --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Dispatch for as long as the gateway runs."""
        loop = asyncio.get_running_loop()
        adopted_at = float("-inf")
        while True:
            self._wake.clear()
            claimed = False
            try:
                if not self._stopping and loop.time() - adopted_at >= _ADOPT_SECONDS:
                    await self._adopt()
                    adopted_at = loop.time()
                await self._look()
                claimed = await self._step()
            except (StorageFull, StoreUnavailable) as error:
                log.warning("cannot dispatch to the endpoint", reason=error.detail)
            if claimed:
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(self._tick_seconds):
                    await self._wake.wait()

    async def _adopt(self) -> None:
        """Follow every unfinished attempt that nobody follows: after a start, or a crash."""
        for one in await self._db.read(lambda session: unfinished(session, engine=NAME)):
            if one.fence.job_id not in self._runners:
                log.info("following an unfinished attempt", job_id=one.fence.job_id)
                self._start(one.fence)

    async def _look(self) -> None:
        """Keep `state` true."""
        time = asyncio.get_running_loop().time()
        if time - self._looked_at < self._look_seconds:
            return
        self._looked_at = time
        try:
            health = await self.endpoint.health()
        except EndpointError as error:
            self._set("unreachable", str(error))
            return
        if time >= self._trouble_until:
            self._set("ready", _words(health))

    async def _step(self) -> bool:
        """Claim at most one job; say whether one was claimed."""
        if self.draining:
            self.verdict = "Draining: no new jobs are sent."
            return False
        if self.state != "ready":
            self.verdict = "The endpoint is not ready."
            return False
        if len(self._runners) >= self._most:
            self.verdict = f"{len(self._runners)} jobs are there, as many as may be."
            return False
        now = self._now()
        left = list(self._left)
        waiting = await self._db.read(
            lambda session: waited_too_long(
                session, before=now - self._after, now=now, limit=1, without=left
            )
        )
        self.verdict = self._verdict(waiting)
        if not waiting.job_ids:
            return False
        job_id, attempt_id = waiting.job_ids[0], str(uuid4())
        fence = await self._db.write(
            lambda session: queue.claim(
                session, job_id, engine=NAME, attempt_id=attempt_id, now=self._now()
            )
        )
        if fence is not None:
            self._start(fence)
            self._feed.publish(job_id)
        return True

    def _verdict(self, waiting: Waiting) -> str:
        words = [f"{len(self._runners)} of {self._most} jobs are there."]
        if waiting.too_large:
            words.append(
                f"{waiting.too_large} waiting jobs have media of more than {MEDIA_BYTES:,} bytes, "
                "which RunPod does not take inside a request; they are left to the local engines."
            )
        return " ".join(words)

    def _start(self, fence: Fence) -> None:
        runner = self._make_runner(fence, self)
        task = asyncio.create_task(runner.run(), name=f"attempt-{fence.attempt_id}")
        self._runners[fence.job_id] = (runner, task)
        task.add_done_callback(lambda done: self._ended(fence.job_id, done))

    def _ended(self, job_id: str, task: asyncio.Task[Any]) -> None:
        self._runners.pop(job_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("remote attempt crashed", job_id=job_id, exc_info=error)
        self._on_end()
        self.wake()

    def _set(self, state: State, detail: str | None) -> None:
        if state != self.state:
            log.info("endpoint state", state=state, detail=detail)
        self.state, self.detail = state, detail


def _words(health: Health) -> str:
    workers, jobs = health.workers, health.jobs
    return (
        f"Workers: {workers.running} running, {workers.idle} idle. "
        f"Jobs: {jobs.running} running, {jobs.waiting} waiting."
    )
