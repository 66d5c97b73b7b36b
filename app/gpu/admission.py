"""Whether a job may start now: pure functions from figures to a decision in words.

`need` is the expected peak of ComfyUI's whole process. `room` is what NVML calls free plus what
ComfyUI itself holds and would give back, less a margin that is never given away.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from app.gpu.card import Reading
from app.gpu.engine_memory import EngineMemory
from app.wire import VramWait

UNKNOWN_MODELS = "?"
"""What an engine has loaded that was running before the gateway, or models of several kinds beside
one another: no job's models, so that they do not count as what a job would load anyway."""

FREED_SLACK_MIB = 1024
"""After `/free`, ComfyUI keeps more than at its start: CUDA loads kernels when they are first used,
and libraries keep their workspaces. So much more than the idle figure still counts as its own."""


@dataclass(frozen=True, slots=True)
class Situation:
    """The card and the engine on it at one moment.

    Attributes:
        reading: The card now.
        engine: What ComfyUI holds of it.
        loaded: Models key of what ComfyUI has in memory, kept up by `loaded_after`; None after its
            start and after `/free`; `UNKNOWN_MODELS` for an engine that was adopted.
        running_need_mib: `Admit.peak_mib` of the job that runs now; None if none runs.
        margin_mib: Memory that is never given away.
        steady_budget_mib: `Settled.budget_mib`; None judges by this reading alone.
        asked_in_vain: How often ComfyUI was asked for memory that it keeps all the same, for so
            long that nobody is to wait behind the job that needs it; 0 if that is not so.
    """

    reading: Reading
    engine: EngineMemory
    loaded: str | None
    running_need_mib: int | None = None
    margin_mib: int = 512
    steady_budget_mib: int | None = None
    asked_in_vain: int = 0

    @property
    def budget_mib(self) -> int:
        """All that ComfyUI could hold: what is free and what it holds already."""
        now = budget(self.reading, self.engine)
        return now if self.steady_budget_mib is None else min(now, self.steady_budget_mib)


@dataclass(frozen=True, slots=True)
class Admit:
    """There is room: start it.

    Attributes:
        detail: The figures in words.
        peak_mib: What ComfyUI's process will hold at most while it runs: its need, and what stays
            loaded beside it.
    """

    detail: str
    peak_mib: int


@dataclass(frozen=True, slots=True)
class FreeFirst:
    """There will be room once ComfyUI has given its models back: `POST /free`, then look again.

    After ComfyUI answered, `loaded` is None; so this is never said twice for one set of models.
    """

    wait: VramWait


@dataclass(frozen=True, slots=True)
class Wait:
    """There is no room now.

    Attributes:
        wait: The figures and the words for the user.
        until: What has to happen: `others` let go; the `running` job ends, so that its models can
            be freed; the `engine` lets go of what it kept after `/free` (restart it if it does not
            within seconds).
    """

    wait: VramWait
    until: Literal["others", "running", "engine"]


@dataclass(frozen=True, slots=True)
class Never:
    """The card has less memory than the job needs, even with nobody else on it."""

    need_mib: int
    capacity_mib: int
    detail: str


Decision = Admit | FreeFirst | Wait | Never


def loaded_after(loaded: str | None, models: str) -> str | None:
    """What ComfyUI has loaded once a job with these models has started.

    A job that was admitted beside other models leaves both in memory; one without models adds none.
    """
    if not models:
        return loaded
    return models if loaded in {None, models} else UNKNOWN_MODELS


def mib(value: int) -> str:
    """Memory for people: `31,000 MiB`."""
    return f"{value:,} MiB"


def capacity(reading: Reading, margin_mib: int) -> int:
    """The largest need that can ever be admitted to this card, in MiB."""
    return reading.capacity_mib - margin_mib


def budget(reading: Reading, engine: EngineMemory) -> int:
    """What ComfyUI could hold at most beside the other processes, in MiB.

    It stays the same while ComfyUI loads and frees, and changes only with other processes (unless
    it is unknown what ComfyUI holds).
    """
    return reading.free_mib + (engine.held_mib or 0)


def never(need_mib: int, reading: Reading, margin_mib: int) -> Never | None:
    """The refusal at submission, if the card is too small for the need; else None."""
    most = capacity(reading, margin_mib)
    if need_mib <= most:
        return None
    return Never(
        need_mib,
        most,
        f"It needs {mib(need_mib)}, and {reading.name} can give at most {mib(most)}: "
        f"{mib(reading.total_mib)} in all, {mib(reading.reserved_mib)} kept by the driver, "
        f"{mib(margin_mib)} margin.",
    )


def decide(need_mib: int, models: str, situation: Situation) -> Decision:
    """Decide about one job.

    A job behind a running one with the same models is admitted on the larger of the two needs, not
    on their sum: ComfyUI runs one prompt at a time, and the second reuses the first one's memory.
    With other models, what the running job leaves loaded is taken off the room.

    Args:
        need_mib: Expected peak of ComfyUI's whole process while it runs the job.
        models: Key of the models that the job loads, such as workflow and variant; empty if none.
        situation: The card and the engine.
    """
    too_large = never(need_mib, situation.reading, situation.margin_mib)
    if too_large is not None:
        return too_large
    engine, running = situation.engine, situation.running_need_mib
    held = engine.held_mib or 0
    most = situation.budget_mib - situation.margin_mib
    if situation.loaded == models:
        wanted, stays = max(need_mib, running or 0), 0
    else:
        resident = max(held, running or 0)
        slack = FREED_SLACK_MIB if situation.loaded is None else 0
        wanted, stays = need_mib, max(0, resident - engine.idle_mib - slack)
    room = most - stays
    if wanted <= room:
        return Admit(f"Needs {mib(wanted)}; there is room for {mib(room)}.", wanted + stays)
    wait = _wait(wanted, room, stays, situation)
    holds_models = situation.loaded is not None and (stays > 0 or engine.held_mib is None)
    freeing_may_help = need_mib <= most or engine.held_mib is None
    if holds_models and freeing_may_help:
        return FreeFirst(wait) if running is None else Wait(wait, "running")
    if stays > 0 and need_mib <= most:
        return Wait(wait, "running" if running is not None else "engine")
    return Wait(wait, "others")


def _wait(wanted: int, room: int, stays: int, situation: Situation) -> VramWait:
    reading, engine = situation.reading, situation.engine
    held = engine.held_mib or 0
    others = max(0, reading.used_mib - held)
    parts = [f"{mib(reading.free_mib)} free"]
    if held:
        parts.append(f"+ {mib(held)} that ComfyUI itself holds")
    dip = budget(reading, engine) - situation.budget_mib
    if dip > 0:
        parts.append(f"- {mib(dip)} that was in use a moment ago")
    if stays:
        parts.append(f"- {mib(stays)} of other models that stay in ComfyUI's memory")
    parts.append(f"- {mib(situation.margin_mib)} margin")
    sentences = [
        f"Needs {mib(wanted)}; there is room for {mib(max(0, room))}: {' '.join(parts)}.",
        _who_holds(others, situation),
    ]
    if engine.source == "unknown":
        sentences.append("What ComfyUI itself holds is not known, so it counts as others'.")
    if situation.asked_in_vain and stays:
        sentences.append(
            f"ComfyUI was asked {situation.asked_in_vain} times to give it back and keeps it: "
            "restart ComfyUI. Jobs that fit beside it no longer wait behind this one."
        )
    return VramWait(
        need_mib=wanted,
        room_mib=max(0, room),
        free_mib=reading.free_mib,
        engine_mib=held,
        others_mib=others,
        detail=" ".join(sentences),
    )


def _who_holds(others: int, situation: Situation) -> str:
    if others == 0:
        return "No other process holds memory on the card."
    named = [
        f"pid {process.pid}: {mib(process.mib)}"
        for process in sorted(situation.reading.processes, key=lambda p: -(p.mib or 0))
        if process.mib and process.pid not in situation.engine.pids
    ]
    shown = ", ".join(named[:4]) + (", and more" if len(named) > 4 else "")
    if not shown:
        return f"Others hold {mib(others)}."
    if situation.engine.source != "system_stats":
        return f"Others hold {mib(others)} ({shown})."
    # Which of the processes is ComfyUI's is not known, only what torch says that it holds.
    return f"Others hold {mib(others)}; on the card, ComfyUI's among them: {shown}."


@dataclass(frozen=True, slots=True)
class Settled:
    """Hysteresis: the budget counts as the least that the last readings showed.

    A foreign process that lets go for a moment must not let a job in. Memory counts as free when
    every reading of the last `settle_seconds` showed it, and at least the last two, if the one
    before is younger than `stale_seconds`. With no recent reading, the first decides at once.
    """

    settle_seconds: float = 1.0
    stale_seconds: float = 10.0
    seen: tuple[tuple[float, int], ...] = ()

    def add(self, budget_mib: int, at: float) -> Settled:
        """The state after another reading.

        Args:
            budget_mib: `budget(reading, engine)`.
            at: Seconds on a monotonic clock.
        """
        kept = [
            (when, value)
            for index, (when, value) in enumerate(self.seen)
            if at - when < self.settle_seconds
            or (index == len(self.seen) - 1 and at - when < self.stale_seconds)
        ]
        return Settled(self.settle_seconds, self.stale_seconds, (*kept, (at, budget_mib)))

    @property
    def budget_mib(self) -> int | None:
        """The least of the readings that count; None before the first."""
        return min((value for _, value in self.seen), default=None)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A queued job that could run on this engine.

    Attributes:
        job_id: UUIDv7: of two with the same priority the smaller id is the older.
        need_mib: Expected peak of ComfyUI's whole process.
        models: Key of the models that it loads; empty if it loads none.
        measured: Whether `need_mib` was learned.
        priority: Higher first.
        waited_seconds: Since it was first told to wait for memory; 0 if it never was.
    """

    job_id: str
    need_mib: int
    models: str
    priority: int = 0
    waited_seconds: float = 0.0
    measured: bool = True


@dataclass(frozen=True, slots=True)
class Choice:
    """What to do with the queue now.

    Attributes:
        job_id: The job that `decision` is about; None if nothing can start.
        decision: `Admit` or `FreeFirst` for that job.
        waits: Jobs that were looked at and have no room.
        never: Jobs that cannot fit this card at all: fail them.
        held_back_by: The waiting job that nobody may pass any more, if there is one.
    """

    job_id: str | None = None
    decision: Admit | FreeFirst | None = None
    waits: dict[str, Wait] = field(default_factory=dict)
    never: dict[str, Never] = field(default_factory=dict)
    held_back_by: str | None = None


def choose(
    candidates: Iterable[Candidate], situation: Situation | None, *, backfill_seconds: float
) -> Choice:
    """Choose the next job: priority, then age; a job that fits may pass one that does not.

    It may pass only while that one has waited for less than `backfill_seconds`, so that none
    starves; and not one that only waits for the running job to end, because then it is its turn.
    One that waits for memory that ComfyUI will not give back (`asked_in_vain`) holds up nobody.

    Args:
        candidates: Queued jobs that this engine could run, in any order.
        situation: The card and the engine; None if admission is off: the first is admitted.
        backfill_seconds: How long a waiting job may be passed.
    """
    ordered = sorted(candidates, key=lambda job: (-job.priority, job.job_id))
    if situation is None:
        if not ordered:
            return Choice()
        first = ordered[0]
        return Choice(first.job_id, Admit("Admission is off.", first.need_mib))
    waits: dict[str, Wait] = {}
    refused: dict[str, Never] = {}
    for job in ordered:
        decision = decide(job.need_mib, job.models, situation)
        if isinstance(decision, Admit | FreeFirst):
            return Choice(job.job_id, decision, waits, refused)
        if isinstance(decision, Never):
            refused[job.job_id] = decision
            continue
        waits[job.job_id] = decision
        if decision.until == "engine" and situation.asked_in_vain:
            continue
        if decision.until != "others" or job.waited_seconds >= backfill_seconds:
            return Choice(None, None, waits, refused, job.job_id)
    return Choice(None, None, waits, refused)
