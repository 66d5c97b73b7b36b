"""Procrastinate's worker beside one engine: fetches a job when its dispatcher could start one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta

from procrastinate import App, JobContext, PsycopgConnector, RetryDecision
from procrastinate.exceptions import ConnectorException, UniqueViolation
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager
from procrastinate.retry import BaseRetryStrategy
from procrastinate.worker import Worker
from psycopg.errors import RaiseException

from app.fleet.connection import conninfo
from app.fleet.held import HeldJobs, Later
from app.jobs.distribution import LARGEST_CLASS, TASK, next_class, queue_name, vram_class

_POLL_SECONDS = 1.0
"""A job that is offered again wakes nobody in procrastinate; it is found by looking."""

_HUNGER_SECONDS = 0.05
_AT_ONCE = 16
"""Jobs in a worker's hands at most: running, staged, being stored, waiting for memory."""

logging.getLogger("procrastinate").setLevel(logging.ERROR)


class _OfferedAgainError(Exception):
    """Not a failure: the job is to be offered again."""

    def __init__(self, later: Later) -> None:
        super().__init__(f"offered again in {later.seconds:g} s")
        self.later = later


class _Again(BaseRetryStrategy):
    """Offers a job again, whatever happened: its own row says when it is at an end."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision:
        """When, and to whom."""
        later = exception.later if isinstance(exception, _OfferedAgainError) else Later(5.0)
        queue = None
        if later.above_mib is not None:
            workflow = job.queue.partition("/")[2]
            queue = queue_name(next_class(vram_class(later.above_mib)), workflow)
        return RetryDecision(retry_at=self._now() + timedelta(seconds=later.seconds), queue=queue)


class _HungryManager(JobManager):
    """Procrastinate's own, which fetches only what can be started, and loses no answer.

    Attributes:
        capacity_mib: The largest need that the card can ever hold; None for no limit.
        stopping: Whether nothing more is to be fetched.
    """

    def __init__(self, connector: PsycopgConnector, held: HeldJobs) -> None:
        super().__init__(connector)
        self.capacity_mib: int | None = None
        self.stopping = False
        self._held = held

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Job | None:
        """Wait until there is something to do with a job, then fetch one that can run here."""
        del queues  # those that the worker began with: files come and go
        while not self._held.hungry:
            if self.stopping:
                return None
            await asyncio.sleep(_HUNGER_SECONDS)
        wanted = queues_of(self.capacity_mib, self._held.workflows)
        return await super().fetch_job(wanted, worker_id) if wanted else None

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:  # noqa: FBT001 - as in its base
        """Take the offer out of the table."""
        finish = super().finish_job
        await self._surely(lambda: finish(job, status, delete_job))

    async def retry_job(
        self,
        job: Job,
        retry_at: datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        lock: str | None = None,
    ) -> None:
        """Offer it again. Where that was done already, this offer goes."""
        retry, finish = super().retry_job, super().finish_job
        try:
            await self._surely(lambda: retry(job, retry_at, priority, queue, lock))
        except UniqueViolation:
            await self._surely(lambda: finish(job, Status.ABORTED, delete_job=True))

    async def _surely(self, write: Callable[[], Awaitable[None]]) -> None:
        """Write until it is written: a worker that lives keeps what it fetched from all others."""
        while True:
            try:
                await write()
            except UniqueViolation:
                raise
            except ConnectorException as error:
                if isinstance(error.__cause__, RaiseException):
                    return  # it is gone: somebody took this worker for dead
                if self.stopping:
                    raise
            else:
                return
            await asyncio.sleep(_POLL_SECONDS)


class Puller:
    """One engine's worker."""

    def __init__(
        self,
        url: str,
        held: HeldJobs,
        *,
        name: str,
        lease: timedelta,
        now: Callable[[], datetime],
    ) -> None:
        self._held = held
        self._name = name
        self._lease = lease.total_seconds()
        connector = PsycopgConnector(conninfo=conninfo(url), min_size=1, max_size=4)
        self._manager = _HungryManager(connector, held)
        self._app = App(connector=connector)
        self._app.job_manager = self._manager
        self._app.task(name=TASK, retry=_Again(now), pass_context=True)(self._run)
        self._worker: Worker | None = None

    async def _run(self, _context: JobContext, job_id: str) -> None:
        answer = await self._held.hold(job_id)
        if isinstance(answer, Later):
            raise _OfferedAgainError(answer)

    async def run(self, capacity_mib: int | None) -> None:
        """Work until `stop`.

        Args:
            capacity_mib: The largest need that the card can ever hold; None for no limit.

        Raises:
            Exception: The database is away; start it again.
        """
        self._manager.capacity_mib = capacity_mib
        async with self._app.open_async():
            self._worker = Worker(
                self._app,
                name=self._name,
                concurrency=_AT_ONCE,
                fetch_job_polling_interval=_POLL_SECONDS,
                delete_jobs="always",
                install_signal_handlers=False,
                update_heartbeat_interval=self._lease / 4,
                stalled_worker_timeout=self._lease,
                shutdown_graceful_timeout=2.0,
            )
            await self._worker.run()  # type: ignore[no-untyped-call]

    @property
    def stopping(self) -> bool:
        """Whether it was stopped for good."""
        return self._manager.stopping

    def stop(self) -> None:
        """Fetch no more and let go of what has not begun."""
        self._manager.stopping = True
        self._held.release()
        if self._worker is not None:
            self._worker.stop()  # type: ignore[no-untyped-call]


def queues_of(capacity_mib: int | None, workflows: Sequence[str]) -> list[str]:
    """The queues of these workflows, of all classes that a card serves; None for every card."""
    classes = [0]
    largest = LARGEST_CLASS if capacity_mib is None else vram_class(capacity_mib)
    while (vram := next_class(classes[-1])) <= largest:
        classes.append(vram)
    return [queue_name(vram, workflow) for vram in classes for workflow in workflows]
