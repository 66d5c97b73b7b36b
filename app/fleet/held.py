"""The jobs that procrastinate has handed to this machine and no attempt has begun yet.

A job that is held here is offered to nobody else, so it is held for as long as it has a chance:
until its attempt is over, or until it has found no room for a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from app.database import Database
from app.jobs.dispatcher import Dispatcher
from app.jobs.supply import Waiting, waiting_jobs

_MOST_WAITING = 4
"""Jobs without room that are held beside one another, so that a smaller one may pass."""

_HOLD_SECONDS = 5.0
"""How long a job that waits for memory is kept from other machines, which may have room."""

_RESERVE_SECONDS = 60.0
"""The same for one that no other may pass any more: the card is kept free for it so long."""

_AGAIN_SECONDS = 2.0
"""After so long it may come back, if nobody else took it."""


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing is left to do with what procrastinate handed over."""


@dataclass(frozen=True, slots=True)
class Later:
    """It is to be offered again.

    Attributes:
        seconds: After so long.
        above_mib: Only to cards that hold more than this; None for those it was offered to.
    """

    seconds: float = 0.0
    above_mib: int | None = None


@dataclass(slots=True)
class _Hold:
    answer: asyncio.Future[Done | Later]
    since: float
    first_waited: datetime | None = None


@dataclass
class HeldJobs:
    """A dispatcher's supply on one machine of many.

    Attributes:
        dispatcher: Whose supply it is; set once both are made.
        larger: Whether any other machine's card holds more than this many MiB.
    """

    db: Database
    backfill_seconds: float
    now: Callable[[], datetime]
    larger: Callable[[int], bool]
    capacity_mib: Callable[[], int | None]
    dispatcher: Dispatcher | None = None
    _held: dict[str, _Hold] = field(default_factory=dict)
    _waits: frozenset[str] = frozenset()

    # --- for the dispatcher ----------------------------------------------------------------------

    async def jobs(
        self, *, now: datetime, limit: int, without: Collection[str] = ()
    ) -> Sequence[Waiting]:
        """The held jobs that are still queued; the others are let go."""
        ids = [job_id for job_id in self._held if not self._followed(job_id)]
        if not ids:
            return []
        # Procrastinate hands nothing over before its time, so that no time is looked at here.
        later = now + timedelta(days=1)
        found = await self.db.read(
            lambda session: waiting_jobs(session, now=later, limit=limit, among=ids)
        )
        queued = {job.job_id: job for job in found}
        for job_id in ids:
            if job_id not in self._held:
                continue
            if job_id in queued:
                self._held[job_id].first_waited = queued[job_id].vram_wait_since
            elif len(found) < limit:
                self._answer(job_id, Done())
        return [job for job in found if job.workflow not in without]

    def judged(self, waits: Collection[str]) -> None:
        """Note which have no room now: others may be held beside them."""
        self._waits = frozenset(waits)

    def pass_on(self, job_id: str) -> bool:
        """Let a job go that this card can never hold, if a larger card works somewhere."""
        capacity = self.capacity_mib()
        if capacity is None or not self.larger(capacity):
            return False
        self._answer(job_id, Later(above_mib=capacity))
        return True

    def ended(self, job_id: str) -> None:
        """Its attempt is over; a requeued job was offered anew in the transaction that did it."""
        self._answer(job_id, Done())

    # --- for procrastinate's worker --------------------------------------------------------------

    @property
    def workflows(self) -> list[str]:
        """The workflows of which the engine was seen to have every part."""
        if self.dispatcher is None:
            return []
        return sorted(name for name, lacks in self.dispatcher.engine.missing.items() if not lacks)

    @property
    def hungry(self) -> bool:
        """Whether another job should be fetched now."""
        if self.dispatcher is None or not self.dispatcher.wants_jobs:
            return False
        idle = [job_id for job_id in self._held if not self._followed(job_id)]
        return len(idle) < _MOST_WAITING and self._waits.issuperset(idle)

    async def hold(self, job_id: str) -> Done | Later:
        """Keep a job for the dispatcher until its attempt is over or its chance is."""
        loop = asyncio.get_running_loop()
        if job_id in self._held or self.dispatcher is None:
            return Later(_AGAIN_SECONDS)
        hold = _Hold(loop.create_future(), loop.time())
        self._held[job_id] = hold
        self.dispatcher.wake()
        try:
            while True:
                await asyncio.wait({hold.answer}, timeout=0.5)
                if hold.answer.done():
                    return hold.answer.result()
                if self._followed(job_id):
                    continue
                if not self.dispatcher.engine.ready or self.dispatcher.draining:
                    return Later()
                if loop.time() - hold.since >= self._patience(hold):
                    return Later(_AGAIN_SECONDS)
        finally:
            self._held.pop(job_id, None)

    def release(self) -> None:
        """Let everything go: this machine stops."""
        for job_id in tuple(self._held):
            self._answer(job_id, Later())

    def _patience(self, hold: _Hold) -> float:
        if hold.first_waited is None:
            return _HOLD_SECONDS
        waited = self.now() - hold.first_waited
        passed_enough = waited >= timedelta(seconds=self.backfill_seconds)
        return _RESERVE_SECONDS if passed_enough else _HOLD_SECONDS

    def _followed(self, job_id: str) -> bool:
        return self.dispatcher is not None and self.dispatcher.follows(job_id)

    def _answer(self, job_id: str, answer: Done | Later) -> None:
        hold = self._held.get(job_id)
        if hold is not None and not hold.answer.done():
            hold.answer.set_result(answer)
