"""A day's mix of jobs on a simulated card, with other processes coming and going.

Whatever the mix: no job is admitted into memory that others hold, none starves, and the card works
whenever something fits. ComfyUI is simulated at its worst: it keeps all that it ever loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.gpu.admission import (
    Admit,
    Candidate,
    FreeFirst,
    Settled,
    Situation,
    budget,
    choose,
    loaded_after,
)
from app.gpu.card import Reading
from app.gpu.engine_memory import EngineMemory, Offset, engine_memory
from app.gpu.simulated import SimulatedCard

CAPACITY = 23_600
MARGIN = 512
CONTEXT = 600
COMFY = 42
FOREIGN = 666
TICK = 0.25
BACKFILL = 30.0

Pids = Literal["visible", "hidden"]


@dataclass
class Job:
    job_id: str
    arrives: float
    need: int
    models: str
    priority: int
    seconds: float
    waiting_since: float | None = None
    started: float | None = None

    @property
    def order(self) -> tuple[int, str]:
        return (-self.priority, self.job_id)


@dataclass(frozen=True)
class Visit:
    """Another process on the card, for a while."""

    arrives: float
    stays: float
    mib: int


@dataclass
class Day:
    """The dispatcher's loop over the real decisions, in simulated time."""

    jobs: list[Job]
    visits: list[Visit]
    pids: Pids
    now: float = 0.0
    kept: dict[str, int] = field(default_factory=dict)
    running: Job | None = None
    staged: Job | None = None
    peaks: dict[str, int] = field(default_factory=dict)
    loaded: str | None = None
    settled: Settled = field(default_factory=Settled)
    offset: Offset = field(default_factory=Offset)
    finished: list[str] = field(default_factory=list)
    foreign_since: float = 0.0
    idle_since: float = 0.0

    def __post_init__(self) -> None:
        self.card = SimulatedCard(total_mib=24_000, reserved_mib=400, clock=lambda: self.now)
        self.card.pids_hidden = self.pids == "hidden"
        self.card.hold(COMFY, lambda _: self.comfy_mib)
        self.card.hold(FOREIGN, self.foreign)

    # --- the truth -------------------------------------------------------------------------------

    def foreign(self, at: float) -> int:
        held = sum(v.mib for v in self.visits if v.arrives <= at < v.arrives + v.stays)
        return min(held, CAPACITY - self.comfy_mib)

    @property
    def comfy_mib(self) -> int:
        """It takes half of a job's memory at once and the rest in mid-run, and gives none back."""
        kept = dict(self.kept)
        job = self.running
        if job is not None and job.started is not None:
            late = self.now - job.started >= job.seconds / 2
            taken = (job.need - CONTEXT) // (1 if late else 2)
            kept[job.models] = max(kept.get(job.models, 0), taken)
        return CONTEXT + sum(kept.values())

    def peak_of(self, *jobs: Job | None) -> int:
        """What ComfyUI will hold once these have run on top of what it keeps."""
        kept = dict(self.kept)
        for job in jobs:
            if job is not None:
                kept[job.models] = max(kept.get(job.models, 0), job.need - CONTEXT)
        return CONTEXT + sum(kept.values())

    # --- the loop --------------------------------------------------------------------------------

    def look(self) -> Situation:
        reading: Reading = self.card.read()
        torch = self.comfy_mib - CONTEXT
        if self.running is None:
            self.offset = self.offset.learn(reading, torch_mib=torch, pids=[COMFY])
        engine: EngineMemory = engine_memory(
            reading, pids=[COMFY], torch_mib=torch, offset=self.offset
        )
        self.settled = self.settled.add(budget(reading, engine), self.now)
        running = self.running
        return Situation(
            reading=reading,
            engine=engine,
            loaded=self.loaded,
            running_need_mib=self.peaks[running.job_id] if running is not None else None,
            margin_mib=MARGIN,
            steady_budget_mib=self.settled.budget_mib,
        )

    def queue(self) -> list[Job]:
        busy = {job.job_id for job in (self.running, self.staged) if job is not None}
        return [
            job
            for job in self.jobs
            if job.arrives <= self.now
            and job.job_id not in busy
            and job.job_id not in self.finished
        ]

    def waited(self, job: Job) -> float:
        return 0.0 if job.waiting_since is None else self.now - job.waiting_since

    def step(self) -> None:
        before = self.foreign(self.now)
        self.now += TICK
        if self.foreign(self.now) != before:
            self.foreign_since = self.now
        job = self.running
        if job is not None and job.started is not None and self.now - job.started >= job.seconds:
            self.kept[job.models] = max(self.kept.get(job.models, 0), job.need - CONTEXT)
            self.finished.append(job.job_id)
            self.running = None
            self.start(self.staged)
            self.staged = None
        if self.running is None or self.staged is None:
            self.dispatch()
        if self.running is not None:
            self.idle_since = self.now

    def dispatch(self) -> None:
        queued = self.queue()
        situation = self.look()
        candidates = [
            Candidate(job.job_id, job.need, job.models, job.priority, self.waited(job))
            for job in queued
        ]
        choice = choose(candidates, situation, backfill_seconds=BACKFILL)
        if isinstance(choice.decision, FreeFirst):
            assert self.running is None
            self.kept.clear()
            self.loaded = None
            choice = choose(candidates, self.look(), backfill_seconds=BACKFILL)
            assert not isinstance(choice.decision, FreeFirst)
        for job in queued:
            if job.job_id in choice.waits and job.waiting_since is None:
                job.waiting_since = self.now
        assert not choice.never
        if isinstance(choice.decision, Admit):
            chosen = next(job for job in queued if job.job_id == choice.job_id)
            self.check_admission(chosen, queued)
            self.peaks[chosen.job_id] = choice.decision.peak_mib
            if self.running is None:
                self.start(chosen)
            else:
                self.staged = chosen

    def start(self, job: Job | None) -> None:
        self.running = job
        if job is not None:
            job.started = self.now
            self.loaded = loaded_after(self.loaded, job.models)

    # --- the promises ----------------------------------------------------------------------------

    def check_admission(self, job: Job, queued: list[Job]) -> None:
        room = CAPACITY - self.foreign(self.now)
        # Hidden, a small stranger can be taken for the context: the margin covers it.
        margin = MARGIN if self.pids == "visible" else 0
        most = max(room - margin, self.comfy_mib)  # what it holds already, nobody else can have
        assert self.peak_of(self.running, job) <= most, "admitted into others' memory"
        for other in queued:
            if other.order < job.order:
                assert self.waited(other) < BACKFILL, f"{job.job_id} passed {other.job_id}"

    def check_work(self) -> None:
        """Nothing ran for two seconds: then nothing that may run fits beside the others."""
        quiet = self.now - max(self.idle_since, self.foreign_since)
        if quiet <= 2.0:
            return
        for job in sorted(self.queue(), key=lambda one: one.order):
            if self.now - job.arrives <= 2.0:
                continue
            unsure = 0 if self.pids == "visible" else CONTEXT
            room = CAPACITY - MARGIN - self.foreign(self.now) - unsure
            assert job.need > room, f"{job.job_id} fits and does not run"
            if self.waited(job) >= BACKFILL:
                return


times = st.integers(0, 240).map(lambda quarter: quarter * TICK)
jobs = st.lists(
    st.builds(
        Job,
        job_id=st.just(""),
        arrives=times,
        need=st.integers(CONTEXT + 400, CAPACITY - MARGIN),
        models=st.sampled_from(["a", "a", "a", "b", "c"]),
        priority=st.sampled_from([0, 0, 0, 1, -1]),
        seconds=st.sampled_from([0.5, 1.0, 5.0, 20.0]),
    ),
    min_size=1,
    max_size=14,
)
visits = st.lists(
    st.builds(
        Visit,
        arrives=times,
        stays=st.sampled_from([0.25, 0.5, 1.0, 10.0, 50.0]),
        mib=st.integers(50, CAPACITY),
    ),
    max_size=8,
)


@pytest.mark.parametrize("pids", ["visible", "hidden"])
@given(jobs=jobs, visits=visits)
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_a_days_mix_keeps_every_promise(jobs: list[Job], visits: list[Visit], pids: Pids) -> None:
    ordered = sorted(jobs, key=lambda one: one.arrives)
    for number, job in enumerate(ordered):
        job.job_id = f"{number:03}"
    day = Day(jobs=ordered, visits=visits, pids=pids)
    quiet_from = max([job.arrives for job in jobs] + [v.arrives + v.stays for v in visits])
    # Once the others have gone, each job needs its own time, and two seconds at most in between.
    end = quiet_from + sum(job.seconds + 2.0 for job in jobs) + 2.0
    while len(day.finished) < len(jobs):
        assert day.now <= end, "a job starves"
        day.step()
        day.check_work()
    assert sorted(day.finished) == [job.job_id for job in ordered]
