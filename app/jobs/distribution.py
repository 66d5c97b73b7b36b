"""What other machines are told of the queue, in the very transaction that changes it.

Only where the store is shared, on PostgreSQL; on SQLite nobody is there to tell, nothing happens.
Procrastinate's table says who may take which job; a job's own row stays the truth about it.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlmodel import Session

if TYPE_CHECKING:
    from procrastinate.manager import JobManager

TASK = "steadydancer.run"
CHANGED = "steadydancer_changed"
CANCEL = "steadydancer_cancel"
"""Channels of NOTIFY; the payload is the job's id."""

_MIB_OF_GIB = 1024
_NOTIFY = sa.text("SELECT pg_notify(:channel, :job_id)")
_OFFERED = sa.text(
    "SELECT 1 FROM procrastinate_jobs WHERE queueing_lock = :job_id AND status = 'todo'"
)


def vram_class(mib: int) -> int:
    """The class of a need or a card in GiB, rounded down: coarser where cards are large.

    A card serves every class up to its own. One of its own class can be a little too large for it,
    which its admission finds out.
    """
    gib = max(mib, 0) // _MIB_OF_GIB
    return gib - gib % _step(gib)


def next_class(vram: int) -> int:
    """The class above one."""
    return vram + _step(vram)


def _step(gib: int) -> int:
    return 1 if gib < 32 else 4 if gib < 96 else 16


def queue_name(vram: int) -> str:
    """Procrastinate's queue of a class."""
    return f"vram-{vram}"


def is_shared(session: Session) -> bool:
    """Whether other machines use the same store."""
    return session.get_bind().dialect.name == "postgresql"


def offer(
    session: Session,
    job_id: str,
    *,
    priority: int,
    need_mib: int,
    again: bool = False,
    not_before: datetime | None = None,
) -> None:
    """Offer a queued job to the workers whose cards are large enough.

    Args:
        session: The transaction that makes it queued.
        job_id: The job.
        priority: As the client gave it.
        need_mib: What it is expected to take.
        again: It ran before, so that it comes before younger jobs of its priority.
        not_before: Not to be taken before this time.
    """
    if not is_shared(session):
        return
    connection = session.connection()
    if connection.execute(_OFFERED, {"job_id": job_id}).first() is not None:
        return
    from procrastinate.jobs import Job  # noqa: PLC0415 - there only where a store is shared

    job = Job(
        queue=queue_name(vram_class(need_mib)),
        task_name=TASK,
        priority=2 * priority + again,
        lock=None,
        queueing_lock=job_id,
        task_kwargs={"job_id": job_id},
        scheduled_at=not_before,
    )
    _manager().batch_defer_jobs([job], connection=connection.connection.driver_connection)


def changed(session: Session, job_id: str) -> None:
    """Wake whoever watches the job, once this is committed."""
    if is_shared(session):
        session.connection().execute(_NOTIFY, {"channel": CHANGED, "job_id": job_id})


def cancel_asked(session: Session, job_id: str) -> None:
    """Tell the worker that runs the job, once this is committed."""
    if is_shared(session):
        session.connection().execute(_NOTIFY, {"channel": CANCEL, "job_id": job_id})


def _manager() -> JobManager:
    """Procrastinate's own statements, on whatever connection they are given."""
    from procrastinate import SyncPsycopgConnector  # noqa: PLC0415 - as in `offer`
    from procrastinate.manager import JobManager  # noqa: PLC0415

    return JobManager(SyncPsycopgConnector())
