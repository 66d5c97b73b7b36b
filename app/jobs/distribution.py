"""What other machines are told of the queue, in the very transaction that changes it.

Only where the store is shared, on PostgreSQL; on SQLite nobody is there to tell, nothing happens.
Procrastinate's table says who may take which job; a job's own row stays the truth about it.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Session

TASK = "steadydancer.run"
CHANGED = "steadydancer_changed"
CANCEL = "steadydancer_cancel"
"""Channels of NOTIFY; the payload is the job's id."""

LARGEST_CLASS = 1024
"""In GiB: what needs more is of this class."""

_MIB_OF_GIB = 1024
_TURNS = 4096
"""Jobs of one key that are told apart by how many of its jobs came before them."""

_NOTIFY = sa.text("SELECT pg_notify(:channel, :job_id)")

# Procrastinate's own function, called through our session: an error of it is one of the session's,
# and what other processes did at the same moment is met by running the transaction again.
_OFFER = sa.text(
    """
    SELECT procrastinate_defer_jobs_v1(ARRAY[ROW(
        :queue, :task, :priority, NULL, :job_id,
        jsonb_build_object('job_id', CAST(:job_id AS text)), CAST(:not_before AS timestamptz)
    )::procrastinate_job_to_defer_v1])
     WHERE NOT EXISTS (
        SELECT 1 FROM procrastinate_jobs WHERE queueing_lock = :job_id AND status = 'todo')
    """
)
_WAITING = sa.text(
    "SELECT count(*) FROM (SELECT 1 FROM job WHERE status = 'queued' AND id <> :job_id"
    " AND owner IS NOT DISTINCT FROM CAST(:owner AS text) LIMIT :most) AS waiting"
)


def vram_class(mib: int) -> int:
    """The class of a need or a card in GiB, rounded down: coarser where cards are large.

    A card serves every class up to its own. One of its own class can be a little too large for it,
    which its admission finds out.
    """
    gib = min(max(mib, 0) // _MIB_OF_GIB, LARGEST_CLASS)
    return gib - gib % _step(gib)


def next_class(vram: int) -> int:
    """The class above one."""
    return vram + _step(vram)


def _step(gib: int) -> int:
    return 1 if gib < 32 else 4 if gib < 96 else 16


def queue_name(vram: int, workflow: str) -> str:
    """Procrastinate's queue of a class and a workflow.

    A worker asks only for what its card and its files can run: what it handed back would come
    first again the next time, before jobs that it can run.
    """
    return f"vram-{vram}/{workflow}"


def is_shared(session: Session) -> bool:
    """Whether other machines use the same store."""
    return session.get_bind().dialect.name == "postgresql"


def offer(
    session: Session,
    job_id: str,
    *,
    workflow: str,
    owner: str | None,
    priority: int,
    need_mib: int,
    again: bool = False,
    not_before: datetime | None = None,
) -> None:
    """Offer a queued job to the workers that can run it.

    Among jobs of one priority those that ran before come first, then those of keys with the fewest
    jobs waiting, then the oldest: who fills the queue waits behind who asks for little.

    Args:
        session: The transaction that makes it queued.
        job_id: The job.
        workflow: What it runs.
        owner: Its key; None on loopback.
        priority: As the client gave it.
        need_mib: What it is expected to take.
        again: It ran before.
        not_before: Not to be taken before this time.
    """
    if not is_shared(session):
        return
    run = session.connection().execute
    most = _TURNS - 1
    before = 0
    if not again:
        before = run(_WAITING, {"job_id": job_id, "owner": owner, "most": most}).scalar_one()
    run(
        _OFFER,
        {
            "queue": queue_name(vram_class(need_mib), workflow),
            "task": TASK,
            "priority": (2 * priority + again) * _TURNS + most - before,
            "job_id": job_id,
            "not_before": not_before,
        },
    )


def changed(session: Session, job_id: str) -> None:
    """Wake whoever watches the job, once this is committed."""
    if is_shared(session):
        session.connection().execute(_NOTIFY, {"channel": CHANGED, "job_id": job_id})


def cancel_asked(session: Session, job_id: str) -> None:
    """Tell the worker that runs the job, once this is committed."""
    if is_shared(session):
        session.connection().execute(_NOTIFY, {"channel": CANCEL, "job_id": job_id})
