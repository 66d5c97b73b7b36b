"""Where a dispatcher's jobs come from: the whole queue, or what this machine was given of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sqlmodel import Session, col, or_, select

from app.database import Database
from app.jobs.states import Status
from app.jobs.tables import Job


@dataclass(frozen=True, slots=True)
class Waiting:
    """A queued job as the dispatcher weighs it.

    Attributes:
        spare_shape: Its shape with the low-memory settings; None if it has those already.
        spare_mib: The formula's figure for that.
    """

    job_id: str
    workflow: str
    shape: str
    formula_mib: int
    spare_shape: str | None
    spare_mib: int
    priority: int
    vram_wait_since: datetime | None


class Supply(Protocol):
    """Gives the jobs that one dispatcher may choose from, and is told what became of them."""

    async def jobs(
        self, *, now: datetime, limit: int, without: Collection[str] = ()
    ) -> Sequence[Waiting]:
        """The jobs, in the order of the queue; see `waiting_jobs`."""
        ...

    def judged(self, waits: Collection[str]) -> None:
        """Admission has looked at all of them, and these have no room now."""
        ...

    def pass_on(self, job_id: str) -> bool:
        """This card can never hold the job: say whether another machine's may, and let it go."""
        ...

    def ended(self, job_id: str) -> None:
        """The job's attempt here is over."""
        ...


class TableSupply:
    """The whole queue: the only machine chooses for itself."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def jobs(
        self, *, now: datetime, limit: int, without: Collection[str] = ()
    ) -> Sequence[Waiting]:
        """The queued jobs."""
        return await self._db.read(
            lambda session: waiting_jobs(session, now=now, limit=limit, without=without)
        )

    def judged(self, waits: Collection[str]) -> None:
        """Nothing to do: the rows say why they wait."""

    def pass_on(self, job_id: str) -> bool:  # noqa: ARG002 - as the protocol names it
        """There is no other machine."""
        return False

    def ended(self, job_id: str) -> None:
        """Nothing to do: what was requeued is in the queue again."""


def waiting_jobs(
    session: Session,
    *,
    now: datetime,
    limit: int,
    without: Collection[str] = (),
    among: Collection[str] | None = None,
) -> Sequence[Waiting]:
    """Give the queued jobs that may be offered now, in the order of the queue.

    Args:
        session: The open transaction.
        now: Jobs that are not to be offered before a later time are left out.
        limit: Most jobs to give.
        without: Workflows that are left out, so that they hide no job behind them.
        among: Only these jobs; None for all.
    """
    query = select(Job).where(
        col(Job.status) == Status.QUEUED,
        or_(col(Job.not_before).is_(None), col(Job.not_before) <= now),
        col(Job.workflow).not_in(sorted(without)),
    )
    if among is not None:
        query = query.where(col(Job.id).in_(sorted(among)))
    rows = session.exec(query.order_by(col(Job.priority).desc(), col(Job.id)).limit(limit)).all()
    return [
        Waiting(
            row.id,
            row.workflow,
            row.low_memory_shape if row.low_memory else row.shape,
            row.low_memory_mib if row.low_memory else row.formula_mib,
            None if row.low_memory else row.low_memory_shape,
            row.low_memory_mib,
            row.priority,
            row.vram_wait_since,
        )
        for row in rows
    ]
