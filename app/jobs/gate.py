"""Admission for one engine: puts the card, the estimates and ComfyUI's own memory together.

The decisions are `gpu.admission`'s, pure; this asks for the figures, obeys `FreeFirst`, and
remembers which models ComfyUI has loaded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

from app.comfy.client import EngineError
from app.gpu.admission import (
    FREED_SLACK_MIB,
    UNKNOWN_MODELS,
    Admit,
    Candidate,
    FreeFirst,
    Situation,
    choose,
    loaded_after,
)
from app.gpu.card import CardUnreadable
from app.gpu.engine_memory import EngineMemory
from app.gpu.estimate import Estimator, Need, shape_key
from app.gpu.monitor import GpuMonitor
from app.gpu.sampler import PeakSampler
from app.jobs.engine import Engine
from app.jobs.keeping import Keeping
from app.jobs.shapes import parse_shape
from app.wire import VramWait

_OBSERVE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with the queue now.

    Attributes:
        words: The verdict for `/v1/system`.
        job_id: The job to claim; None if none may start.
        peak_mib: What ComfyUI will hold at most while it runs that job.
        waits: Jobs that have no room, and why.
        never: Jobs that cannot fit this card at all, and why.
        problem: Why nothing can be decided.
        restart: Why the engine is to be restarted once nothing runs in it; None if it is not.
    """

    words: str
    job_id: str | None = None
    peak_mib: int = 0
    waits: Mapping[str, VramWait] = field(default_factory=dict)
    never: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = None
    restart: str | None = None


class Gate:
    """Decides for one engine and its card."""

    def __init__(
        self,
        *,
        engine: Engine,
        monitor: GpuMonitor,
        estimator: Estimator,
        backfill_seconds: float,
        adopted: bool = True,
        free_seconds: float = 3.0,
        ask_again_seconds: float = 10.0,
    ) -> None:
        self.monitor = monitor
        self._engine = engine
        self.backfill_seconds = backfill_seconds
        self._estimator = estimator
        self._free_seconds = free_seconds
        self._loaded: str | None = UNKNOWN_MODELS if adopted else None
        self._lives = engine.lives
        self._keeping = Keeping(ask_again_seconds)

    def need(self, shape: str, formula_mib: int) -> Need:
        """The expected peak of a shape on this card, learned or by the formula."""
        reading = self.monitor.last
        if reading is None:
            return Need(formula_mib, learned=False)
        key = shape_key(parse_shape(shape), card=reading.name)
        return self._estimator.need(key, formula_mib=formula_mib)

    def could_hold(self, shape: str, formula_mib: int) -> bool:
        """Whether the card can ever hold such a job; one that was not read yet may."""
        capacity = self.monitor.capacity_mib
        return capacity is None or self.need(shape, formula_mib).mib <= capacity

    def started(self, models: str) -> bool:
        """Note that ComfyUI begins to load these models.

        Returns:
            Whether it has no others, so that the run's peak is its own.
        """
        alone = self._loaded in {None, models}
        self._loaded = loaded_after(self._loaded, models)
        return alone

    async def choose(
        self, candidates: Sequence[Candidate], *, running_peak_mib: int | None
    ) -> Verdict:
        """Choose the next job of the queue.

        Args:
            candidates: Queued jobs that the engine could run.
            running_peak_mib: `Verdict.peak_mib` of the job that is in the engine now.
        """
        if self._engine.lives != self._lives:
            self._lives, self._loaded = self._engine.lives, UNKNOWN_MODELS
            self._keeping.renewed()
        try:
            situation = await self._look(running_peak_mib)
            choice = choose(candidates, situation, backfill_seconds=self.backfill_seconds)
            if isinstance(choice.decision, FreeFirst) or self._is_to_be_measured(
                candidates, choice.job_id, running_peak_mib
            ):
                await self.free()
                situation = await self._look(running_peak_mib)
                choice = choose(candidates, situation, backfill_seconds=self.backfill_seconds)
        except CardUnreadable as problem:
            words = f"Nothing is admitted: {problem.detail}"
            return Verdict(words, problem=words)
        except EngineError as error:
            words = "Nothing is admitted: the engine does not answer."
            return Verdict(words, problem=f"{words} ({error})")
        waits = {job_id: wait.wait for job_id, wait in choice.waits.items()}
        never = {job_id: one.detail for job_id, one in choice.never.items()}
        kept = next((job for job, wait in choice.waits.items() if wait.until == "engine"), None)
        restart = self._judge_engine(kept) if kept is not None else None
        if isinstance(choice.decision, Admit):
            admitted = choice.decision
            self._keeping.started(str(choice.job_id))
            return Verdict(admitted.detail, choice.job_id, admitted.peak_mib, waits, never)
        first = next(iter(waits.values()), None)
        words = first.detail if first is not None else "Nothing fits."
        return Verdict(words, waits=waits, never=never, restart=restart)

    def sampler(self) -> PeakSampler | None:
        """A sampler for an attempt that starts now; None where no card is read."""
        card, engine = self.monitor.card, self.monitor.engine
        if card is None or self.monitor.last is None:
            return None
        return PeakSampler(card=card, engine=engine or EngineMemory(None, "unknown"))

    async def learn(
        self,
        shape: str,
        *,
        peak_mib: int,
        sampler: PeakSampler,
        attempt_id: str,
        oom: bool,
        admitted_mib: int,
        at: datetime,
    ) -> None:
        """Learn from an attempt that ran to its end, or out of memory."""
        reading = self.monitor.last
        if reading is None:
            return
        await self._estimator.learn(
            shape_key(parse_shape(shape), card=reading.name),
            peak_mib=max(peak_mib, admitted_mib) if oom else peak_mib,
            reading=reading,
            source=sampler.source,
            attempt_id=attempt_id,
            at=at,
            oom=oom,
        )

    async def observe(self) -> None:
        """Keep the picture of the card fresh, for as long as the gateway runs.

        ComfyUI's part changes while a job runs, long after admission has looked.
        """
        while self.monitor.enabled:
            with suppress(CardUnreadable):  # the monitor itself remembers why, and says so
                await self.monitor.observe(
                    pids=self._engine.pids, torch_mib=await self._held_by_torch()
                )
            await asyncio.sleep(_OBSERVE_SECONDS)

    async def _held_by_torch(self) -> int | None:
        if not self._engine.ready:
            return None
        try:
            return await self._engine.torch_mib()
        except EngineError:  # its own watch says so
            return None

    # --- figures ---------------------------------------------------------------------------------

    def _judge_engine(self, job_id: str) -> str | None:
        """Ask an engine again that keeps what it was asked to give back.

        Returns:
            Why it is to be restarted, if it is the gateway's own and asking has not helped.
        """
        now = asyncio.get_running_loop().time()
        if self._keeping.waits(job_id, now=now):
            # Perhaps it was never asked since: somebody else's prompt may have loaded models.
            self._loaded = UNKNOWN_MODELS
        if not self._keeping.is_deaf(now=now) or not self._may_restart(job_id):
            return None
        self._keeping.restarts(job_id, life=self._engine.lives)
        return f"It kept memory that it was asked {self._keeping.asked} times to give back."

    def _may_restart(self, job_id: str) -> bool:
        owned = self._engine.supervisor is not None
        return owned and self._keeping.may_restart(job_id, life=self._engine.lives)

    def _is_to_be_measured(
        self, candidates: Sequence[Candidate], job_id: str | None, running_peak_mib: int | None
    ) -> bool:
        """Whether ComfyUI is to give back other models, so that a new shape's peak is its own.

        Where there is room for all of them nothing else would ever ask for them, and nothing
        would ever be learned. It costs one loading of models for each shape.
        """
        if not self.monitor.enabled or running_peak_mib is not None:
            return False
        chosen = next((one for one in candidates if one.job_id == job_id), None)
        return (
            chosen is not None
            and not chosen.measured
            and bool(chosen.models)
            and self._loaded not in {None, chosen.models}
        )

    async def _look(self, running_peak_mib: int | None) -> Situation | None:
        if not self.monitor.enabled:
            return None
        idle = running_peak_mib is None
        situation = await self.monitor.look(
            loaded=self._loaded,
            running_need_mib=running_peak_mib,
            pids=self._engine.pids,
            torch_mib=await self._engine.torch_mib(),
            idle=idle,
        )
        if situation is None or not idle:
            return situation
        now, keeping = asyncio.get_running_loop().time(), self._keeping
        held_up = keeping.holds_up(now=now, backfill_seconds=self.backfill_seconds)
        if not held_up and keeping.job_id and not self._may_restart(keeping.job_id):
            situation = replace(situation, asked_in_vain=keeping.asked)
        if self._loaded != UNKNOWN_MODELS:
            return situation
        held, most = situation.engine.held_mib, situation.engine.idle_mib + FREED_SLACK_MIB
        if held is None or held > most:
            return situation
        # As little as after `/free`: nothing is loaded, so it need not be known what.
        self._loaded = None
        return replace(situation, loaded=None)

    async def free(self) -> None:
        """Ask for the models back and wait until they are, for a few seconds at most.

        ComfyUI frees when its worker is next idle, so the answer alone says nothing.
        """
        before = await self._engine.torch_mib()
        await self._engine.client.free(unload_models=True, free_memory=True)
        self._loaded = None
        deadline = asyncio.get_running_loop().time() + self._free_seconds
        while before and asyncio.get_running_loop().time() < deadline:
            now = await self._engine.torch_mib()
            if now is None or now < before * 0.9:
                return
            await asyncio.sleep(0.1)
