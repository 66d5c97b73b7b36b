"""The engines as everybody else sees them: how they stand, and the few things asked of them.

Submission, the API and the metrics go by `EngineState` only, so that it is the same to them whether
an engine is followed by this process or by a worker on another machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.gpu.card import Reading
from app.gpu.monitor import Picture
from app.jobs.dispatcher import Dispatcher
from app.jobs.engine import State
from app.jobs.gate import Gate
from app.wire import MissingPart


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """One engine at one moment.

    Attributes:
        name: Its name, which attempts bear.
        state: Whether a job can be given to it.
        version: ComfyUI's.
        detail: Why it is not ready.
        missing: What it lacks, by workflow; a workflow it was not asked for is absent.
        reads_card: Whether admission looks at a card.
        card_problem: Why the card cannot be read.
        card_verdict: Admission's state in words.
        verdict: What the dispatcher last decided, in words.
        reading: The newest reading of the card.
        picture: The newest reading with ComfyUI's part in it.
        margin_mib: Memory that is never given away.
        capacity_mib: The largest need that can ever be admitted.
        next_need_mib: Need of the job that is to start next.
        jobs: Jobs whose prompts are in the engine, the running one first.
        draining: Whether it starts no more jobs.
        max_upload_bytes: Largest file that ComfyUI takes; None where it has not said so.
    """

    name: str
    state: State
    version: str | None
    detail: str | None
    missing: Mapping[str, tuple[MissingPart, ...]]
    reads_card: bool
    card_problem: str | None
    card_verdict: str
    verdict: str
    reading: Reading | None
    picture: Picture | None
    margin_mib: int
    capacity_mib: int | None
    next_need_mib: int | None
    jobs: tuple[str, ...]
    draining: bool
    max_upload_bytes: int | None = None

    @property
    def ready(self) -> bool:
        """Whether a job may be given to it."""
        return self.state == "ready"

    def can_run(self, workflow: str) -> bool:
        """Whether everything the workflow needs was seen on it."""
        return workflow in self.missing and not self.missing[workflow]


class Stations(Protocol):
    """All engines of this gateway."""

    def look(self) -> Sequence[EngineState]:
        """How each one stands."""
        ...

    def wake(self) -> None:
        """Have the queue looked at now."""
        ...

    def cancel(self, job_id: str) -> None:
        """Tell whoever runs a job that it is marked to be canceled."""
        ...

    async def drain(self, *, draining: bool) -> None:
        """Start no more jobs, or start them again."""
        ...


@dataclass(frozen=True, slots=True)
class Station:
    """One engine of this process with what gives it work: its dispatcher, and its card's gate."""

    dispatcher: Dispatcher
    gate: Gate

    def look(self) -> EngineState:
        """How it stands."""
        dispatcher, monitor = self.dispatcher, self.gate.monitor
        engine = dispatcher.engine
        return EngineState(
            name=engine.name,
            state=engine.state,
            version=engine.version,
            detail=engine.detail,
            missing=engine.missing,
            reads_card=monitor.enabled,
            card_problem=str(monitor.problem) if monitor.problem is not None else None,
            card_verdict=monitor.verdict,
            verdict=dispatcher.verdict,
            reading=monitor.last,
            picture=monitor.picture,
            margin_mib=monitor.margin_mib,
            capacity_mib=monitor.capacity_mib,
            next_need_mib=dispatcher.next_need_mib,
            jobs=tuple(dispatcher.in_engine),
            draining=dispatcher.draining,
            max_upload_bytes=engine.max_upload_bytes,
        )


class LocalStations:
    """The engines that this process follows itself."""

    def __init__(self, stations: Sequence[Station]) -> None:
        self._stations = stations

    def look(self) -> Sequence[EngineState]:
        """How each one stands."""
        return [station.look() for station in self._stations]

    def wake(self) -> None:
        """Have every dispatcher look at the queue now."""
        for station in self._stations:
            station.dispatcher.wake()

    def cancel(self, job_id: str) -> None:
        """Tell the dispatchers that a job is marked to be canceled."""
        for station in self._stations:
            station.dispatcher.cancel(job_id)

    async def drain(self, *, draining: bool) -> None:
        """Start no more jobs, or start them again."""
        for station in self._stations:
            station.dispatcher.draining = draining
        self.wake()
