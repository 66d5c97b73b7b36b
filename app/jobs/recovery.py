"""Attempts that nobody follows: after a start, and should a runner have crashed.

Nothing is decided here. An unfinished attempt gets a runner again, and the runner begins by asking
the engine where its prompt is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlmodel import Session, col, select

from app.jobs import queue
from app.jobs.queue import FailureNote, Fence
from app.jobs.states import Caps, Loss, Status
from app.jobs.tables import Attempt, Job


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A claimed job."""

    fence: Fence
    shape: str
    formula_mib: int
    started: bool


def unfinished(session: Session, *, engine: str) -> Sequence[Unfinished]:
    """Give the attempts that an engine has not finished, those that began first."""
    rows = session.exec(
        select(Job, Attempt)
        .join(Attempt, col(Attempt.id) == col(Job.attempt_id))
        .where(col(Job.status) == Status.RUNNING, col(Job.engine) == engine)
        .order_by(col(Attempt.started_at).is_(None), col(Attempt.claimed_at))
    ).all()
    return [
        Unfinished(
            Fence(job.id, job.attempt, attempt.id),
            job.low_memory_shape if attempt.low_memory else job.shape,
            job.low_memory_mib if attempt.low_memory else job.formula_mib,
            attempt.started_at is not None,
        )
        for job, attempt in rows
    ]


def release_orphans(
    session: Session, *, engines: Collection[str], caps: Caps, now: datetime
) -> int:
    """Requeue the attempts of engines that are no longer configured, and say how many."""
    rows = session.exec(
        select(Job, Attempt)
        .join(Attempt, col(Attempt.id) == col(Job.attempt_id))
        .where(col(Job.status) == Status.RUNNING, col(Job.engine).not_in(sorted(engines)))
    ).all()
    orphans = [
        (Fence(job.id, job.attempt, attempt.id), attempt.started_at is not None)
        for job, attempt in rows
    ]
    note = FailureNote("engine-died", "The engine that had the job is no longer configured.")
    for fence, started in orphans:
        loss = Loss.FORGOTTEN if started else Loss.NOT_STARTED
        queue.lose(session, fence, loss, note, caps=caps, now=now)
    return len(orphans)
