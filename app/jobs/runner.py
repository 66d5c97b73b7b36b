"""One attempt: prepare, render, submit, follow, collect. Ends in an Outcome, written once.

The same code serves a fresh attempt and one found after a restart: that one starts by asking the
engine where its prompt is, and goes on from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlmodel import Session

from app.comfy import messages
from app.comfy.client import (
    Absent,
    AnswerLost,
    EngineError,
    EngineFaulted,
    Finished,
    GraphRefused,
    Located,
    Pending,
    Running,
    UploadTooLarge,
)
from app.comfy.messages import public_text
from app.database import Database
from app.errors import GatewayError, StorageFull, StoreUnavailable, UnsupportedMedia
from app.gpu.sampler import PeakSampler
from app.jobs import queue, verdicts
from app.jobs.collect import Collector, OutputUnusable
from app.jobs.engine import Engine
from app.jobs.feed import Feed
from app.jobs.follow import (
    CancelAsked,
    Ended,
    Ending,
    Follower,
    Gone,
    Overdue,
    Patience,
    Stalled,
)
from app.jobs.gate import Gate
from app.jobs.measure import measure
from app.jobs.outcome import Failed, Lost, NotOurs, Outcome, Stopped, Succeeded, store
from app.jobs.pace import expected_seconds
from app.jobs.progress import Tracker
from app.jobs.queue import WAITED_TOO_LONG, FailureNote, Fence, Report, Usage
from app.jobs.stager import Stager
from app.jobs.states import Caps, Loss
from app.jobs.task import Asked, Task, load_task, prefix_of
from app.telemetry import Metrics, continue_trace
from app.workflows.registry import Registry
from app.workflows.workflow import Workflow

log = structlog.get_logger(__name__)

_ANSWER_LOST_SECONDS = 30.0
"""A prompt whose answer was lost may still be on its way into ComfyUI's queue for so long."""

_IN_FLIGHT_SECONDS = 1.0
"""The same for one that a killed gateway had sent: nobody holds its connection any more."""


_ABANDON_SECONDS = 2.0


class Runner:
    """Runs one attempt on one engine.

    Attributes:
        fence: The right to move the job.
        engine: Where it runs.
        cancel: Set when somebody wants the job canceled.
        in_engine: Whether the engine has, or is about to get, the prompt. False as soon as it is
            done there, while the video is still being stored.
        placed: Whether the prompt is in the engine's queue. The next job is claimed only then, so
            that one whose media are prepared faster does not overtake.
    """

    def __init__(
        self,
        *,
        fence: Fence,
        engine: Engine,
        gate: Gate,
        need_mib: int,
        db: Database,
        workflows: Registry,
        stager: Stager,
        collector: Collector,
        feed: Feed,
        patience: Patience,
        caps: Caps,
        previews: bool,
        wake: Callable[[], None],
        metrics: Metrics,
        now: Callable[[], datetime],
    ) -> None:
        self.fence = fence
        self.engine = engine
        self.cancel = asyncio.Event()
        self.in_engine = True
        self.placed = False
        self._db = db
        self._workflows = workflows
        self._stager = stager
        self._collector = collector
        self._feed = feed
        self._gate = gate
        self._need_mib = need_mib
        self._patience = patience
        self._caps = caps
        self._previews = previews
        self._wake = wake
        self._metrics = metrics
        self._now = now
        self._sampler: PeakSampler | None = None
        self._stack = AsyncExitStack()
        self._begun: float | None = None
        self._over: float | None = None
        self._alone = False
        self._life = engine.lives

    async def run(self) -> None:
        """Run the attempt to its end and write how it ended."""
        structlog.contextvars.bind_contextvars(job_id=self.fence.job_id, attempt=self.fence.number)
        try:
            async with self._stack:
                outcome = await self._outcome()
                self._release()
            await self._write(outcome)
        finally:
            self._release()
            self.engine.ended(self.fence.attempt_id)
            self._feed.forget(self.fence.job_id)

    async def abandon(self) -> None:
        """Take the prompt out of an engine that goes on without us, as far as it obeys at once."""
        try:
            async with asyncio.timeout(_ABANDON_SECONDS):
                await self._leave_engine()
        except TimeoutError:
            log.info("the engine keeps a prompt", job_id=self.fence.job_id)

    def _release(self) -> None:
        if self.in_engine:
            self.in_engine = False
            self._wake()

    async def _write(self, outcome: Outcome) -> None:
        tail = self.engine.log_tail() if isinstance(outcome, Failed | Lost) else None
        await store(self._db, self.fence, outcome, caps=self._caps, log_tail=tail, now=self._now)
        self._feed.publish(self.fence.job_id)
        await measure(self._db, self._metrics, self.fence)

    async def _outcome(self) -> Outcome:
        try:
            task = await self._db.read(lambda session: load_task(session, self.fence))
            if task is None:
                return NotOurs()
            continue_trace(task.trace)
            if task.cancel_requested:
                self.cancel.set()
            return await self._attempt(task, self._workflows.get(task.workflow))
        except (StorageFull, StoreUnavailable) as error:
            # The job is not to blame, and its prompt must not run on unwatched.
            if self.placed:
                await self._leave_engine()
            return self._lost(Loss.STOPPED_BY_US, error.detail, wait_seconds=10)
        except UploadTooLarge as error:
            return Failed(FailureNote("bad-media", str(error)))
        except EngineFaulted as error:
            # It answers, and wrongly: counted, so that this ends.
            await self._leave_engine()
            return self._lost(Loss.FORGOTTEN, public_text(str(error)), wait_seconds=2)
        except EngineError as error:
            loss = Loss.NOT_STARTED if self._begun is None else Loss.FORGOTTEN
            return self._lost(loss, public_text(str(error)), wait_seconds=2)
        except GatewayError as error:
            await self._leave_engine()
            kind = "bad-media" if isinstance(error, UnsupportedMedia) else "workflow-unavailable"
            return Failed(FailureNote(kind, error.detail), self._usage())
        except Exception as error:
            log.exception("attempt failed inside the gateway")
            await self._leave_engine()
            private = f"{type(error).__name__}: {error}"
            note = FailureNote("internal-error", "The gateway failed.", private=private)
            return Failed(note, self._usage())

    # --- the stations ----------------------------------------------------------------------------

    async def _attempt(self, task: Task, workflow: Workflow) -> Outcome:
        resolved = workflow.resolve(task.request, {}, seed=0)
        if task.submitting_at is not None:
            self._place(task.submitting_at)
            graph = dict(task.graph or {})
        else:
            files = await self._stager.stage(
                self.fence.job_id, resolved.media_plan, self.engine.client
            )
            graph = workflow.render(
                task.request,
                files,
                prefix=prefix_of(self.fence),
                low_memory=task.low_memory,
            )
        if self.cancel.is_set() and task.submitting_at is None:
            return Stopped()
        expected = await self._db.read(lambda s: expected_seconds(s, workflow, resolved))
        tracker = Tracker(workflow.shares(graph), self._now, expected)
        follower = self._follower(task, workflow.models_key, tracker)
        async with follower.listening():
            self._life = follower.sight.lives
            if task.submitting_at is not None:
                follower.doubt(_IN_FLIGHT_SECONDS)
            elif (refused := await self._submit(graph, follower)) is not None:
                return refused
            if task.started_at is not None:
                # Known from before a restart: what began then is not counted anew.
                running = (self._now() - task.started_at).total_seconds()
                self._begun = asyncio.get_running_loop().time() - max(running, 0.0)
                follower.sight.started = True
                follower.sight.started_at = self._begun
            ending = await follower.follow()
            self._over = asyncio.get_running_loop().time()
        return await self._end(ending, Asked(task, workflow, resolved, graph))

    def _follower(self, task: Task, models: str, tracker: Tracker) -> Follower:
        async def on_start() -> None:
            self._begun = asyncio.get_running_loop().time()
            tracker.started()
            self._alone = self._gate.started(models)
            sampler = self._gate.sampler()
            if sampler is not None:
                self._sampler = await self._stack.enter_async_context(sampler)
            await self._note(lambda session: queue.start(session, self.fence, now=self._now()))

        async def on_message(message: messages.Message) -> None:
            if isinstance(message, messages.Preview):
                self._feed.show(self.fence.job_id, message.media_type, message.data)
            elif (report := tracker.take(message)) is not None:
                await self._report(report)

        async def on_quiet() -> None:
            if (report := tracker.rest()) is not None:
                await self._report(report)

        patience = self._patience
        if task.max_run_seconds is not None:
            patience = replace(patience, run=task.max_run_seconds)
        if task.queue_deadline is not None:
            patience = replace(patience, wait=(task.queue_deadline - self._now()).total_seconds())
        return Follower(
            engine=self.engine,
            prompt_id=self.fence.attempt_id,
            patience=patience,
            cancel_asked=self._cancel_asked,
            on_start=on_start,
            on_message=on_message,
            on_quiet=on_quiet,
            cancel=self.cancel,
        )

    async def _cancel_asked(self) -> bool:
        """Ask the store: another process may have marked the job, or given it away."""
        try:
            fresh = await self._db.read(lambda session: load_task(session, self.fence))
        except (StorageFull, StoreUnavailable):
            return False
        return fresh is None or fresh.cancel_requested

    async def _submit(self, graph: dict[str, Any], follower: Follower) -> Outcome | None:
        """Hand the graph over. A lost answer is looked up, never sent again blindly."""
        mine = await self._db.write(
            lambda session: queue.submitting(session, self.fence, graph=graph, now=self._now())
        )
        if not mine:
            return NotOurs()
        try:
            await self.engine.client.submit(
                graph,
                prompt_id=self.fence.attempt_id,
                client_id=self.fence.attempt_id,
                preview=self._previews,
            )
        except AnswerLost:
            log.warning("answer to the prompt lost; the engine's queue will tell")
            follower.doubt(_ANSWER_LOST_SECONDS)
        except GraphRefused as refusal:
            self.engine.recheck()
            await self._leave_engine()  # a part of the graph may have been accepted
            return Failed(verdicts.of_refusal(refusal))
        self._place(self._now())
        await self._report(Report(phase="staged"))
        return None

    def _place(self, at: datetime) -> None:
        self.placed = True
        self.engine.placed(self.fence.attempt_id, at)
        self._wake()

    async def _report(self, report: Report) -> None:
        await self._note(
            lambda session: queue.heartbeat(session, self.fence, report, now=self._now())
        )

    async def _note(self, fn: Callable[[Session], bool]) -> None:
        """Write what may be missed: a run is not given up because its progress finds no room."""
        try:
            await self._db.write(fn, durable=False)
        except (StorageFull, StoreUnavailable) as error:
            log.warning("progress not stored", reason=error.detail)
        self._feed.publish(self.fence.job_id)

    # --- the end ---------------------------------------------------------------------------------

    async def _end(self, ending: Ending, asked: Asked) -> Outcome:
        match ending:
            case Ended(entry=entry):
                return await self._ended(entry, asked)
            case Gone():
                return await self._gone(ending, asked)
            case CancelAsked():
                self.cancel.set()
        located = await self._leave_engine()
        if isinstance(located, Finished) and located.entry.outcome != "interrupted":
            return await self._ended(located.entry, asked)  # it was faster than our decision
        match ending:
            case CancelAsked():
                return Stopped(self._usage())
            case Overdue(started=False):
                note = FailureNote("deadline-exceeded", WAITED_TOO_LONG)
                return Failed(note, self._usage())
            case Overdue():
                limit = asked.task.max_run_seconds or self._patience.run
                detail = f"The run took longer than the {limit:g} s it was allowed."
                return Failed(FailureNote("deadline-exceeded", detail), self._usage())
            case Stalled(silent_seconds=silent, started=started):
                detail = f"The engine made no progress for {silent:.0f} s."
                return self._lost(Loss.STALLED if started else Loss.NOT_STARTED, detail)

    async def _ended(self, entry: messages.HistoryEntry, asked: Asked) -> Outcome:
        self._release()
        if self._begun is None:
            # It began and ended between two looks; that it ran is still a fact about the job.
            await self._note(lambda session: queue.start(session, self.fence, now=self._now()))
        if entry.outcome == "success":
            self.engine.ended(self.fence.attempt_id)
            report = asyncio.create_task(self._report(Report(phase="storing")))
            try:
                return await self._stored(entry, asked)
            finally:
                await report
        if entry.outcome == "interrupted":
            self.engine.ended(self.fence.attempt_id)
            if self.cancel.is_set():
                return Stopped(self._usage())
            note = FailureNote("interrupted", "The run was interrupted from outside the gateway.")
            return Failed(note, self._usage())
        return await self._raised(entry.error, asked.task)

    async def _stored(self, entry: messages.HistoryEntry, asked: Asked) -> Outcome:
        """Fetch and store what is finished. Neither a full disk nor a dying engine undoes it."""
        delay = 0.2
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._patience.stall_loading
        while not self.cancel.is_set():
            try:
                artifacts = await self._collector.collect(
                    self.engine.client,
                    entry,
                    workflow=asked.workflow,
                    graph=asked.graph,
                    expects=asked.resolved.expects,
                    comment=asked.comment,
                )
            except OutputUnusable as error:
                return self._lost(Loss.BAD_OUTPUT, error.detail)
            except (StorageFull, StoreUnavailable, EngineError) as error:
                log.warning("the video is not stored yet", reason=str(error))
                if isinstance(error, EngineError) and loop.time() > give_up_at:
                    return self._lost(Loss.FORGOTTEN, "The engine went away with the video.")
                with suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self.cancel.wait()
                delay = min(delay * 2, 10.0)
                continue
            await self._learn(asked.task, oom=False)
            return Succeeded(artifacts, self._usage())
        return Stopped(self._usage())

    async def _raised(self, error: messages.ExecutionError | None, task: Task) -> Outcome:
        note = verdicts.of_error(error)
        if note.type != "cuda-fault":
            self.engine.ended(self.fence.attempt_id)
        if note.type == "out-of-memory":
            await self._learn(task, oom=True)
            with suppress(EngineError):
                await self._gate.free()
            return Lost(Loss.OUT_OF_MEMORY, note, self._usage())
        if note.type == "cuda-fault":
            attempt_id, life = self.fence.attempt_id, self._life
            if not await self.engine.fault(note.detail, attempt_id=attempt_id, life=life):
                # The GPU was faulted by the job before it: this one is not to blame.
                return self._lost(Loss.STOPPED_BY_US, note.detail, wait_seconds=1)
            await self.engine.restart("CUDA fault", life=life)
        return Failed(note, self._usage())

    async def _gone(self, gone: Gone, asked: Asked) -> Outcome:
        """The engine has forgotten the prompt; its output may be there all the same."""
        artifacts = await self._collector.recover(
            self.engine.client,
            prefix_of(self.fence),
            workflow=asked.workflow,
            expects=asked.resolved.expects,
            comment=asked.comment,
        )
        if artifacts is not None:
            return Succeeded(artifacts, self._usage())
        if self.cancel.is_set():
            return Stopped(self._usage())
        if not gone.started:
            detail = "The engine lost the prompt before it began to execute it."
            return self._lost(Loss.NOT_STARTED, detail)
        if self.engine.restarted_by_us(since_life=gone.since_life):
            return self._lost(Loss.STOPPED_BY_US, "The gateway restarted the engine.")
        if gone.died:
            return self._lost(Loss.ENGINE_DIED, "The engine died while it executed the job.")
        return self._lost(Loss.FORGOTTEN, "The engine forgot the prompt while it executed it.")

    async def _learn(self, task: Task, *, oom: bool) -> None:
        sampler = self._sampler or self._gate.sampler()
        if sampler is None:
            return
        # With other models in the engine the peak is not the run's own, and a run that is over at
        # once has none. That it ran out of memory counts all the same: what it was admitted for
        # was not enough.
        peak_mib = (sampler.peak_mib or 0) if self._alone else 0
        if not peak_mib and not oom:
            return
        try:
            await self._teach(task, sampler, peak_mib, oom=oom)
        except (StorageFull, StoreUnavailable) as error:
            log.warning("the peak is not learned", reason=error.detail)

    async def _teach(self, task: Task, sampler: PeakSampler, peak_mib: int, *, oom: bool) -> None:
        await self._gate.learn(
            task.shape,
            peak_mib=peak_mib,
            sampler=sampler,
            attempt_id=self.fence.attempt_id,
            oom=oom,
            admitted_mib=self._need_mib,
            at=self._now(),
        )

    async def _leave_engine(self) -> Located | None:
        """Get the prompt out of the engine and see that it is; restart an engine that is deaf."""
        deadline = asyncio.get_running_loop().time() + self._patience.interrupt
        client, prompt_id = self.engine.client, self.fence.attempt_id
        located: Located | None = None
        while asyncio.get_running_loop().time() < deadline:
            try:
                located = await client.locate(prompt_id)
                match located:
                    case Pending():
                        await client.delete_pending(prompt_id)
                    case Running():
                        await client.interrupt(prompt_id)
                    case Finished() | Absent():
                        return located
            except EngineError as error:
                log.info("engine does not answer", reason=str(error))
            await asyncio.sleep(0.1)
        log.error("the engine does not let go of the prompt")
        await self.engine.restart("it did not obey an interrupt")
        return located

    def _lost(self, loss: Loss, detail: str, *, wait_seconds: float = 0) -> Lost:
        not_before = self._now() + timedelta(seconds=wait_seconds) if wait_seconds else None
        return Lost(loss, verdicts.of_loss(loss, detail), self._usage(), not_before)

    def _usage(self) -> Usage:
        seconds = None
        if self._begun is not None and self._over is not None:
            seconds = round(self._over - self._begun, 3)
        sampler = self._sampler
        return Usage(
            gpu_seconds=seconds,
            peak_vram_mib=sampler.peak_mib if sampler is not None else None,
            vram_timeline=sampler.timeline if sampler is not None else None,
        )
