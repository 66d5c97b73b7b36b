"""One attempt at a serverless endpoint: send, follow, collect. Ends in an Outcome, written once.

The endpoint has the request, not a graph: it is a gateway of its own. Its id of the job is stored
as soon as it is known, and a restart goes on from there. It cannot be asked for a job by our id, so
an attempt whose answer to `/run` was lost is lost: it may run there, and the fence keeps it out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlmodel import Session, col, select

from app.database import Database
from app.endpoint import (
    RUN_BYTES,
    AnswerLost,
    Endpoint,
    EndpointError,
    Refused,
    Remote,
    Unknown,
)
from app.errors import (
    FetchRefused,
    GatewayError,
    MalformedBody,
    StorageFull,
    StoreUnavailable,
)
from app.jobs import heard, queue, verdicts
from app.jobs.collect import Collector, OutputUnusable
from app.jobs.feed import Feed
from app.jobs.heard import Video
from app.jobs.measure import measure
from app.jobs.outcome import Failed, Lost, NotOurs, Outcome, Stopped, Succeeded, store
from app.jobs.parcel import Fetch, pack, unpack
from app.jobs.queue import FailureNote, Fence, Report, Usage
from app.jobs.states import Caps, Loss, Status
from app.jobs.tables import Attempt, Job
from app.jobs.task import Asked, Task, load_task
from app.media.store import BlobStore
from app.telemetry import Metrics
from app.workflows.registry import Registry

log = structlog.get_logger(__name__)

_KEPT_SECONDS = 1800.0
"""RunPod keeps a result for 30 minutes. Who could not ask for so long asks in vain."""

_ABOUT_THE_JOB = frozenset({400, 413, 422})
"""Statuses of `/run` that another job need not get."""

_POLL_SECONDS = 2.0
"""Time between two questions about a job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What every remote attempt uses.

    Attributes:
        fetch: How a video that lies behind a link is got; guarded.
        on_refused: Told of a job that the endpoint does not take, and why.
        on_trouble: Told when the endpoint cannot be used now.
        interrupt_seconds: How long the endpoint may take to confirm a cancel.
    """

    endpoint: Endpoint
    db: Database
    workflows: Registry
    store: BlobStore
    collector: Collector
    feed: Feed
    fetch: Fetch
    caps: Caps
    metrics: Metrics
    max_video_bytes: int
    max_run_seconds: float
    interrupt_seconds: float
    now: Callable[[], datetime]
    on_refused: Callable[[str, str], None]
    on_trouble: Callable[[str], None]


class RemoteRunner:
    """Runs one attempt at the endpoint.

    Attributes:
        fence: The right to move the job.
        cancel: Set when somebody wants the job canceled.
        settled: Set while no request of which the answer must not be missed is on its way.
    """

    def __init__(self, fence: Fence, tools: Tools) -> None:
        self.fence = fence
        self.cancel = asyncio.Event()
        self.settled = asyncio.Event()
        self.settled.set()
        self._tools = tools
        self._begun: float | None = None
        self._waited = False
        self._told: Report | None = None

    async def run(self) -> None:
        """Run the attempt to its end and write how it ended."""
        tools = self._tools
        structlog.contextvars.bind_contextvars(job_id=self.fence.job_id, attempt=self.fence.number)
        outcome = await self._outcome()
        await store(tools.db, self.fence, outcome, caps=tools.caps, now=tools.now)
        tools.feed.publish(self.fence.job_id)
        await measure(tools.db, tools.metrics, self.fence)

    async def _outcome(self) -> Outcome:
        db = self._tools.db
        try:
            task = await db.read(lambda session: load_task(session, self.fence))
            if task is None:
                return NotOurs()
            if task.cancel_requested:
                self.cancel.set()
            remote_id = await db.read(lambda session: _remote_id(session, self.fence))
            if remote_id is None:
                self.settled.clear()
                try:
                    sent = await self._send(task)
                finally:
                    self.settled.set()
                if not isinstance(sent, str):
                    return sent
                remote_id = sent
            return await self._followed(remote_id, task)
        except (StorageFull, StoreUnavailable) as error:
            return self._lost(Loss.STOPPED_BY_US, error.detail, wait_seconds=10)
        except GatewayError as error:
            return Failed(FailureNote("workflow-unavailable", error.detail))
        except Exception as error:
            log.exception("attempt failed inside the gateway")
            private = f"{type(error).__name__}: {error}"
            return Failed(FailureNote("internal-error", "The gateway failed.", private=private))

    # --- sending ---------------------------------------------------------------------------------

    async def _send(self, task: Task) -> str | Outcome:
        """Hand the request over; gives the endpoint's id, or how that ended."""
        tools = self._tools
        if task.submitting_at is not None:
            return self._lost(
                Loss.FORGOTTEN,
                "The gateway ended before the endpoint's answer was stored.",
            )
        if self.cancel.is_set():
            return Stopped()
        body = await pack(
            task,
            tools.workflows.get(task.workflow),
            db=tools.db,
            store=tools.store,
            max_run_seconds=tools.max_run_seconds,
            now=tools.now(),
        )
        if len(body) > RUN_BYTES:
            tools.on_refused(self.fence.job_id, "its request is larger than RunPod takes")
            return self._lost(Loss.NOT_STARTED, "The request is too large for the endpoint.")
        mine = await tools.db.write(
            lambda session: queue.submitting(session, self.fence, graph={}, now=tools.now())
        )
        if not mine:
            return NotOurs()
        try:
            remote = await tools.endpoint.run(body)
        except AnswerLost as error:
            tools.on_trouble(str(error))
            return self._lost(Loss.FORGOTTEN, f"{error} The run cannot be found again.")
        except EndpointError as error:
            if isinstance(error, Refused) and error.status in _ABOUT_THE_JOB:
                tools.on_refused(self.fence.job_id, str(error))
            else:
                tools.on_trouble(str(error))
            return self._lost(Loss.NOT_STARTED, str(error))
        try:
            kept = await tools.db.write(
                lambda session: queue.sent(
                    session, self.fence, remote_id=remote.id, now=tools.now()
                )
            )
        except (StorageFull, StoreUnavailable):
            await self._leave(remote.id)
            raise
        if not kept:
            await self._leave(remote.id)
            return NotOurs()
        await self._note(Report(phase="staged"))
        return remote.id

    # --- following -------------------------------------------------------------------------------

    async def _followed(self, remote_id: str, task: Task) -> Outcome:
        loop = asyncio.get_running_loop()
        heard_at = loop.time()
        if task.started_at is not None:
            self._begun = loop.time()
        while True:
            if self.cancel.is_set():
                return await self._canceled(remote_id)
            try:
                remote = await self._tools.endpoint.status(remote_id)
            except Unknown:
                return self._unknown()
            except EndpointError as error:
                log.info("the endpoint does not answer", reason=str(error))
                if loop.time() - heard_at > _KEPT_SECONDS:
                    return self._lost(Loss.FORGOTTEN, "The endpoint did not answer for too long.")
            else:
                heard_at = loop.time()
                if (outcome := await self._seen(remote, task)) is not None:
                    return outcome
            if (outcome := await self._still_ours(remote_id)) is not None:
                return outcome
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    await self.cancel.wait()

    async def _seen(self, remote: Remote, task: Task) -> Outcome | None:
        """Note what the endpoint says; an outcome if that is the end."""
        match remote.status:
            case "IN_QUEUE":
                self._waited = True
            case "IN_PROGRESS" | "RUNNING":
                await self._running(remote)
            case "COMPLETED":
                await self._mark_begun()
                return await self._completed(remote, task)
            case "FAILED":
                return self._failed(remote)
            case "CANCELLED":
                if self.cancel.is_set():
                    return Stopped(heard.usage(remote))
                note = FailureNote("interrupted", "The job was canceled at the endpoint.")
                return Failed(note, heard.usage(remote))
            case "TIMED_OUT" if self._begun is None:
                return self._lost(Loss.NOT_STARTED, "No worker of the endpoint took the job.")
            case "TIMED_OUT":
                return self._lost(Loss.FORGOTTEN, "The endpoint's worker ran out of time.")
            case other:
                log.warning("the endpoint gives an unknown status", status=other)
        return None

    async def _running(self, remote: Remote) -> None:
        await self._mark_begun()
        report = heard.report(remote)
        if report is not None and report != self._told:
            self._told = report
            await self._note(report)

    async def _mark_begun(self) -> None:
        if self._begun is None:
            self._begun = asyncio.get_running_loop().time()
            tools = self._tools
            with suppress(StorageFull, StoreUnavailable):
                await tools.db.write(
                    lambda session: queue.start(session, self.fence, now=tools.now()),
                    durable=False,
                )
            tools.feed.publish(self.fence.job_id)

    async def _note(self, report: Report) -> None:
        tools = self._tools
        with suppress(StorageFull, StoreUnavailable):  # what may be missed
            await tools.db.write(
                lambda session: queue.heartbeat(session, self.fence, report, now=tools.now()),
                durable=False,
            )
        tools.feed.publish(self.fence.job_id)

    async def _still_ours(self, remote_id: str) -> Outcome | None:
        """Look whether another process marked the job, or gave it away, or its wait is over."""
        tools = self._tools
        try:
            job = await tools.db.read(lambda session: _mark(session, self.fence))
        except (StorageFull, StoreUnavailable):
            return None
        if job is None:
            await self._leave(remote_id)
            return NotOurs()
        if job.canceled:
            self.cancel.set()
        elif self._begun is None and job.deadline is not None and tools.now() > job.deadline:
            await self._leave(remote_id)
            return self._lost(Loss.NOT_STARTED, "No worker of the endpoint took the job in time.")
        return None

    def _unknown(self) -> Outcome:
        detail = "The endpoint does not know the job any more."
        if self._begun is None and self._waited:
            return self._lost(Loss.NOT_STARTED, detail)
        return self._lost(Loss.FORGOTTEN, detail)

    async def _canceled(self, remote_id: str) -> Outcome:
        if not await self._leave(remote_id):
            log.error("the endpoint does not confirm the cancel", remote_id=remote_id)
        return Stopped()

    async def _leave(self, remote_id: str) -> bool:
        """Have the endpoint stop the job; say whether it has."""
        tools = self._tools
        until = asyncio.get_running_loop().time() + tools.interrupt_seconds
        while True:
            try:
                remote = await tools.endpoint.cancel(remote_id)
            except Unknown:
                return True
            except EndpointError as error:
                log.info("the endpoint does not answer", reason=str(error))
            else:
                if remote.status not in {"IN_QUEUE", "IN_PROGRESS", "RUNNING"}:
                    return True
            if asyncio.get_running_loop().time() >= until:
                return False
            await asyncio.sleep(_POLL_SECONDS)

    # --- the end ---------------------------------------------------------------------------------

    async def _completed(self, remote: Remote, task: Task) -> Outcome:
        found = heard.made(remote)
        if found is None:
            return self._lost(Loss.BAD_OUTPUT, "The endpoint called the job done without a video.")
        await self._note(Report(phase="storing"))
        video, usage = found
        workflow = self._tools.workflows.get(task.workflow)
        resolved = workflow.resolve(task.request, {}, seed=0)
        return await self._stored(video, Asked(task, workflow, resolved, {}), usage)

    async def _stored(self, video: Video, asked: Asked, usage: Usage) -> Outcome:
        """Fetch and store the video. Neither a full disk nor a slow link undoes what was made."""
        delay = 0.2
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + _KEPT_SECONDS
        tools = self._tools
        write = unpack(video, fetch=tools.fetch, limit_bytes=tools.max_video_bytes)
        while not self.cancel.is_set():
            try:
                artifacts = await tools.collector.keep(
                    write,
                    workflow=asked.workflow,
                    expects=asked.resolved.expects,
                    comment=asked.comment,
                )
            except (OutputUnusable, MalformedBody) as error:
                return self._lost(Loss.BAD_OUTPUT, error.detail)
            except (StorageFull, StoreUnavailable, FetchRefused) as error:
                log.warning("the video is not stored yet", reason=error.detail)
                if isinstance(error, FetchRefused) and loop.time() > give_up_at:
                    return self._lost(Loss.BAD_OUTPUT, f"The video cannot be got: {error.detail}")
                with suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self.cancel.wait()
                delay = min(delay * 2, 10.0)
                continue
            return Succeeded(artifacts, usage)
        return Stopped(usage)

    def _failed(self, remote: Remote) -> Outcome:
        verdict = heard.failure(remote)
        if not isinstance(verdict, heard.Declined):
            return verdict
        self._tools.on_refused(self.fence.job_id, verdict.detail)
        detail = f"The endpoint did not take the job: {verdict.detail}"
        return self._lost(Loss.NOT_STARTED, detail)

    def _lost(self, loss: Loss, detail: str, *, wait_seconds: float = 0) -> Lost:
        not_before = None
        if wait_seconds:
            not_before = self._tools.now() + timedelta(seconds=wait_seconds)
        return Lost(loss, verdicts.of_loss(loss, detail), not_before=not_before)


# --- queries -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Mark:
    canceled: bool
    deadline: datetime | None


def _mark(session: Session, fence: Fence) -> _Mark | None:
    """What others have written on the job; None if the attempt is not its own any more."""
    row = session.exec(
        select(Job.cancel_requested_at, Job.queue_deadline).where(
            col(Job.id) == fence.job_id,
            col(Job.status) == Status.RUNNING,
            col(Job.attempt) == fence.number,
        )
    ).first()
    return None if row is None else _Mark(row[0] is not None, row[1])


def _remote_id(session: Session, fence: Fence) -> str | None:
    return session.exec(select(Attempt.remote_id).where(col(Attempt.id) == fence.attempt_id)).one()
