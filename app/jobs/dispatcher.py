"""One dispatcher for each engine: asks admission, claims, starts runners, keeps the next one ready.

Woken by a submission, by a runner that lets go of the engine, and by a change of the engine. A job
that must wait stays queued and unclaimed, with the reason in its row. At most two prompts are in
the engine: one that runs and one staged behind it, so that the GPU never waits for the gateway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Protocol
from uuid import uuid4

import structlog
from sqlmodel import Session

from app.database import Database
from app.errors import StorageFull, StoreUnavailable
from app.gpu.admission import Candidate
from app.jobs import queue
from app.jobs.engine import Engine
from app.jobs.feed import Feed
from app.jobs.gate import Gate
from app.jobs.queue import FailureNote, Fence
from app.jobs.recovery import unfinished
from app.jobs.runner import Runner
from app.jobs.states import Caps, Loss
from app.jobs.supply import Supply, Waiting
from app.wire import VramWait

log = structlog.get_logger(__name__)

DEPTH = 2
"""Prompts in the engine at once. Never deeper: cancel, priority and admission keep their meaning
only for jobs that the engine has not got."""

_LOOK_AT = 32
"""Queued jobs that are weighed against the card at once."""


class MakeRunner(Protocol):
    """Builds the runner of an attempt."""

    def __call__(self, fence: Fence, *, need_mib: int, wake: Callable[[], None]) -> Runner:
        """Build it; nothing starts yet."""
        ...


class Dispatcher:
    """Gives queued jobs to one engine.

    Attributes:
        all: The dispatchers of all engines of this gateway, this one among them, in order. A job
            that cannot run here may run there.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        db: Database,
        supply: Supply,
        gate: Gate,
        feed: Feed,
        make_runner: MakeRunner,
        caps: Caps,
        on_end: Callable[[], None] = lambda: None,
        leaves: bool = False,
        tick_seconds: float = 0.5,
        adopt_seconds: float = 10.0,
        now: Callable[[], datetime],
    ) -> None:
        self.engine = engine
        self.draining = False
        self._stopping = False
        self.verdict = "The queue is empty."
        self.next_need_mib: int | None = None
        self.all: Sequence[Dispatcher] = (self,)
        self._db = db
        self._supply = supply
        self._gate = gate
        self._feed = feed
        self._make_runner = make_runner
        self._caps = caps
        self._on_end = on_end
        self._leaves = leaves
        self._tick_seconds = tick_seconds
        self._adopt_seconds = adopt_seconds
        self._now = now
        self._wake = asyncio.Event()
        self._runners: dict[str, tuple[Runner, asyncio.Task[None]]] = {}
        self._peaks: dict[str, int] = {}

    # --- for others ------------------------------------------------------------------------------

    def wake(self) -> None:
        """Look at the queue again now."""
        self._wake.set()

    def cancel(self, job_id: str) -> None:
        """Tell the runner of a job, if it runs here, that the job is to be canceled."""
        if job_id in self._runners:
            self._runners[job_id][0].cancel.set()

    async def stop(self) -> None:
        """Claim no more and stop following.

        An engine that goes on without the gateway keeps its prompts: they are followed again
        after the next start. What an engine of our own had is requeued and does not count; and so
        is everything where other machines can run it and this one may not come back.
        """
        self.draining = self._stopping = True
        running = dict(self._runners)
        for _, task in running.values():
            task.cancel()
        await asyncio.gather(*(task for _, task in running.values()), return_exceptions=True)
        if self.engine.supervisor is None and not self._leaves:
            return
        for runner, _ in running.values():
            await self._requeue(runner.fence)
            if self.engine.supervisor is None:
                await runner.abandon()

    async def _requeue(self, fence: Fence) -> None:
        note = FailureNote("engine-died", "The gateway that ran it was stopped.")
        try:
            await self._write(
                fence.job_id,
                lambda session: queue.lose(
                    session, fence, Loss.STOPPED_BY_US, note, caps=self._caps, now=self._now()
                ),
            )
        except (StorageFull, StoreUnavailable) as error:
            # The engine must be stopped all the same; the next start finds the attempt.
            log.warning("attempt not requeued", job_id=fence.job_id, reason=error.detail)

    @property
    def in_engine(self) -> list[str]:
        """Jobs whose prompts are in the engine, the running one first."""
        return [job for job, (runner, _) in self._runners.items() if runner.in_engine]

    @property
    def wants_jobs(self) -> bool:
        """Whether it could claim one more, if there were room on the card."""
        return not self.draining and self.engine.ready and self._full is None

    @property
    def _full(self) -> str | None:
        """Why the engine is given no more for the moment; None if it is."""
        if any(runner.in_engine and not runner.placed for runner, _ in self._runners.values()):
            return "The last job is being prepared for the engine."
        if len(self.in_engine) >= DEPTH:
            return "The engine has one job to run and one staged."
        return None

    def follows(self, job_id: str) -> bool:
        """Whether an attempt of the job is followed here."""
        return job_id in self._runners

    @property
    def works(self) -> bool:
        """Whether it could start a job now, if there were room."""
        return self.engine.ready and self._gate.monitor.problem is None

    def may_run(self, job: Waiting) -> bool:
        """Whether such a job may ever run here, as far as engine and card were seen."""
        lacks = self.engine.missing.get(job.workflow)
        return not lacks and self._gate.could_hold(job.shape, job.formula_mib)

    @property
    def busy(self) -> bool:
        """Whether any attempt has not ended yet."""
        return bool(self._runners)

    # --- the loop --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Dispatch for as long as the gateway runs."""
        loop = asyncio.get_running_loop()
        adopted_at = float("-inf")
        try:
            while True:
                self._wake.clear()
                claimed = False
                try:
                    if not self._stopping and loop.time() - adopted_at >= self._adopt_seconds:
                        await self._adopt()
                        adopted_at = loop.time()
                    claimed = await self._step()
                except (StorageFull, StoreUnavailable) as error:
                    log.warning("cannot dispatch", reason=error.detail)
                if claimed:
                    continue
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._tick_seconds):
                        await self._wake.wait()
        finally:
            await self._abandon()

    async def _adopt(self) -> None:
        """Give every unfinished attempt that nobody follows a runner.

        It runs in the same task as the claims, so that a fresh claim is never taken for one.
        """
        found = await self._db.read(lambda session: unfinished(session, engine=self.engine.name))
        for one in found:
            if one.fence.job_id not in self._runners:
                log.info("following an unfinished attempt", job_id=one.fence.job_id)
                need = self._gate.need(one.shape, one.formula_mib).mib
                self._start(one.fence, need)

    async def _abandon(self) -> None:
        """Stop following. The attempts stay unfinished in the store and are taken up again."""
        tasks = [task for _, task in self._runners.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _step(self) -> bool:
        """Claim at most one job; say whether one was claimed."""
        if self.draining:
            self.verdict = "Draining: no new jobs are started."
            return False
        if (full := self._full) is not None:
            self.verdict = full
            return False
        now = self._now()
        jobs = await self._supply.jobs(now=now, limit=_LOOK_AT)
        if not jobs:
            self.next_need_mib = None
            self.verdict = "The queue is empty."
            return False
        if not self.engine.ready:
            self.verdict = f"The engine is {self.engine.state}."
            await self._say(self._mine(jobs), "waiting_for_engine", self._engine_reason())
            return False
        for job in self._mine(jobs):
            if not self.engine.can_run(job.workflow):
                await self._say([job], "waiting_for_engine", self._missing_reason(job.workflow))
        lacking = {name for name, parts in self.engine.missing.items() if parts}
        if lacking:
            jobs = await self._supply.jobs(now=now, limit=_LOOK_AT, without=lacking)
        runnable = [job for job in jobs if self.engine.can_run(job.workflow)]
        return bool(runnable) and await self._admit(runnable, now)

    async def _admit(self, jobs: Sequence[Waiting], now: datetime) -> bool:
        spared = {job.job_id for job in jobs if self._is_to_be_spared(job, now)}
        candidates = [self._candidate(job, now, spare=job.job_id in spared) for job in jobs]
        peaks = [self._peaks[job_id] for job_id in self.in_engine]
        choice = await self._gate.choose(candidates, running_peak_mib=max(peaks, default=None))
        self.verdict = choice.words
        self.next_need_mib = candidates[0].need_mib
        for job in jobs:
            if job.job_id in choice.waits and not self._told_before(job):
                wait = choice.waits[job.job_id]
                await self._wait(job.job_id, "waiting_for_vram", wait.detail, wait)
        self._supply.judged(choice.waits)
        never = [job for job in jobs if job.job_id in choice.never and not self._elsewhere(job)]
        for job in never:
            note = FailureNote("out-of-memory", choice.never[job.job_id])
            await self._expire(job.job_id, note, now)
        if choice.problem is not None:
            await self._say(self._mine(jobs)[:1], "waiting_for_engine", choice.problem)
        if choice.restart is not None and not self.busy:
            await self.engine.restart(choice.restart)
        if choice.job_id is None:
            return bool(never)
        chosen = next(item for item in candidates if item.job_id == choice.job_id)
        attempt_id = str(uuid4())
        fence = await self._db.write(
            lambda session: queue.claim(
                session,
                chosen.job_id,
                engine=self.engine.name,
                attempt_id=attempt_id,
                low_memory=chosen.job_id in spared,
                now=self._now(),
            )
        )
        if fence is not None:
            self._start(fence, choice.peak_mib or chosen.need_mib)
            self._feed.publish(fence.job_id)
        return True

    def _is_to_be_spared(self, job: Waiting, now: datetime) -> bool:
        """Whether a job is to run with the low-memory settings without having run out itself.

        Where its shape ran out of memory lately, its need is a guess, which may be all that the
        card has. Beside a process that never leaves it would hold up everybody, for ever.
        """
        if job.spare_shape is None or _waited(job, now) < self._gate.backfill_seconds:
            return False
        return self._gate.need(job.shape, job.formula_mib).ran_out

    def _candidate(self, job: Waiting, now: datetime, *, spare: bool) -> Candidate:
        shape, formula = job.shape, job.formula_mib
        if spare and job.spare_shape is not None:
            shape, formula = job.spare_shape, job.spare_mib
        need = self._gate.need(shape, formula)
        return Candidate(
            job_id=job.job_id,
            need_mib=need.mib,
            models=self.engine.models_of(job.workflow),
            measured=need.learned,
            priority=job.priority,
            waited_seconds=_waited(job, now),
        )

    def _start(self, fence: Fence, peak_mib: int) -> None:
        runner = self._make_runner(fence, need_mib=peak_mib, wake=self.wake)
        self._peaks[fence.job_id] = peak_mib
        task = asyncio.create_task(runner.run(), name=f"attempt-{fence.attempt_id}")
        self._runners[fence.job_id] = (runner, task)
        task.add_done_callback(lambda done: self._ended(fence.job_id, runner, done))

    def _ended(self, job_id: str, runner: Runner, task: asyncio.Task[None]) -> None:
        # A lost job may have been claimed again before its last attempt's task came to its end.
        if job_id in self._runners and self._runners[job_id][0] is runner:
            del self._runners[job_id]
            self._peaks.pop(job_id, None)
            self._supply.ended(job_id)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("runner crashed", job_id=job_id, exc_info=error)
        self._on_end()
        self.wake()

    # --- why they wait ---------------------------------------------------------------------------

    def _elsewhere(self, job: Waiting) -> bool:
        """Whether another engine may ever run it."""
        here = any(one is not self and one.may_run(job) for one in self.all)
        return here or self._supply.pass_on(job.job_id)

    def _mine(self, jobs: Sequence[Waiting]) -> list[Waiting]:
        """The jobs that no other engine could start now: only theirs are this engine's troubles."""
        others = [one for one in self.all if one is not self and one.works]
        return [job for job in jobs if not any(one.may_run(job) for one in others)]

    def _told_before(self, job: Waiting) -> bool:
        """Whether an earlier engine says why it waits; two would take turns in contradicting."""
        earlier = self.all[: self.all.index(self)]
        return any(one.works and one.may_run(job) for one in earlier)

    def _engine_reason(self) -> str:
        detail = self.engine.detail
        return f"The engine is {self.engine.state}" + (f": {detail}" if detail else ".")

    def _missing_reason(self, workflow: str) -> str:
        names = ", ".join(part.name for part in self.engine.missing.get(workflow, ()))
        return f"The engine lacks what the workflow {workflow!r} needs: {names}."

    async def _say(self, jobs: Sequence[Waiting], phase: str, reason: str) -> None:
        for job in jobs:
            await self._wait(job.job_id, phase, reason, None)

    async def _wait(self, job_id: str, phase: str, reason: str, vram: VramWait | None) -> None:
        await self._write(
            job_id,
            lambda session: queue.wait(
                session, job_id, phase=phase, reason=reason, vram=vram, now=self._now()
            ),
        )

    async def _expire(self, job_id: str, note: FailureNote, now: datetime) -> None:
        await self._write(
            job_id, lambda session: queue.expire(session, job_id, note, now=now), durable=True
        )

    async def _write(
        self, job_id: str, fn: Callable[[Session], bool], *, durable: bool = False
    ) -> None:
        if await self._db.write(fn, durable=durable):
            self._feed.publish(job_id)


def _waited(job: Waiting, now: datetime) -> float:
    since = job.vram_wait_since
    return (now - since).total_seconds() if since is not None else 0.0
