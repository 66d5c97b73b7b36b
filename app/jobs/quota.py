"""How many jobs may be queued, in all and for each key, without counting them at every submission.

What is remembered is never less than the truth: it grows with each job taken, and is counted anew
only when it reaches a limit. Counting ten thousand rows takes longer than storing a job.
Where other processes take jobs into the same store, it is counted each time.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlmodel import Session, col

from app.access.limits import Limiter
from app.access.scopes import Caller
from app.errors import QueueFull, RateLimited
from app.jobs.distribution import is_shared
from app.jobs.states import Status
from app.jobs.tables import Job

_LOCK = sa.text("SELECT pg_advisory_xact_lock(7356291, 1)")


class QueueQuota:
    """Counts in the one writer's transactions; nothing else may call it."""

    def __init__(self, *, limiter: Limiter, max_queued_jobs: int) -> None:
        self._limiter = limiter
        self._max_queued_jobs = max_queued_jobs
        self._at_most: int | None = None
        self._at_most_of: dict[str, int] = {}

    def take(self, session: Session, caller: Caller) -> None:
        """Make room for one more job of a caller.

        Raises:
            QueueFull: The queue is as long as the operator allows.
            RateLimited: The key has as many queued jobs as it may.
        """
        if is_shared(session):
            # One at a time, or many at once would each count what was before all of them.
            session.connection().execute(_LOCK)
            self._at_most = None
            self._at_most_of.clear()
        if self._at_most is None or self._at_most >= self._max_queued_jobs:
            self._at_most = queued(session)
        if self._at_most >= self._max_queued_jobs:
            raise QueueFull(
                f"{self._at_most:,} jobs are queued, which is as many as this gateway takes. "
                "Send the request again later.",
                retry_after=30,
            )
        if caller.id is not None:
            self._at_most_of[caller.id] = 1 + self._of(session, caller, caller.id)
        self._at_most += 1

    def _of(self, session: Session, caller: Caller, owner: str) -> int:
        known = self._at_most_of.get(owner)
        if known is not None:
            try:
                self._limiter.queued(caller, known)
            except RateLimited:
                known = None  # some of them may have run since they were counted
        if known is None:
            known = queued(session, owner=owner)
            self._limiter.queued(caller, known)
        return known


def queued(session: Session, *, owner: str | None = None) -> int:
    """How many jobs are queued, of all or of one key."""
    query = sa.select(sa.func.count()).where(col(Job.status) == Status.QUEUED)
    if owner is not None:
        query = query.where(col(Job.owner) == owner)
    return int(session.execute(query).scalar_one())
