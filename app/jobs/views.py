"""Reading jobs: rows to wire models, pages, events. Writes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, SQLModel, col, select

from app import wire
from app.errors import NotFound
from app.jobs.glance import Glance
from app.jobs.states import OPEN, Status
from app.jobs.tables import Attempt, Job, JobEvent, JobInput
from app.media.tables import Artifact, Blob

_Row = sa.Row[*tuple[Any, ...]]

# Rows are read without mapped objects, by statements made once: in a third of the time, and looking
# at jobs is most of what a gateway does.
_JOB = SQLModel.metadata.tables["job"]
_other = _JOB.alias()
_QUEUED_BEFORE = (
    # Two counts, each a range of the queue's index; one with OR would read all of it.
    sa.select(sa.func.count())
    .where(_other.c.status == Status.QUEUED, _other.c.priority > _JOB.c.priority)
    .scalar_subquery()
    + sa.select(sa.func.count())
    .where(
        _other.c.status == Status.QUEUED,
        _other.c.priority == _JOB.c.priority,
        _other.c.id < _JOB.c.id,
    )
    .scalar_subquery()
)
_ONE = sa.select(
    *_JOB.c, sa.case((_JOB.c.status == Status.QUEUED, _QUEUED_BEFORE)).label("position")
).where(_JOB.c.id == sa.bindparam("id"))
_EACH_INPUT = sa.select(col(JobInput.job_id), col(JobInput.field), col(JobInput.upload_id))
_EACH_ARTIFACT = (
    sa.select(*SQLModel.metadata.tables["artifact"].c, col(Blob.bytes), col(Blob.sha256))
    .join(Blob, col(Blob.id) == col(Artifact.blob_id))
    .order_by(col(Artifact.id))
)
_ITS_INPUTS = _EACH_INPUT.where(col(JobInput.job_id) == sa.bindparam("id"))
_ITS_ARTIFACTS = _EACH_ARTIFACT.where(col(Artifact.job_id) == sa.bindparam("id"))
_INPUTS = _EACH_INPUT.where(col(JobInput.job_id).in_(sa.bindparam("ids", expanding=True)))
_ARTIFACTS = _EACH_ARTIFACT.where(col(Artifact.job_id).in_(sa.bindparam("ids", expanding=True)))


@dataclass(frozen=True, slots=True)
class QueueState:
    """The queue in three figures."""

    queued: int
    running: int
    oldest_queued_at: datetime | None


def load(session: Session, job_id: str, *, owner: str | None) -> Job:
    """Give a job's row.

    Args:
        session: The open transaction.
        job_id: The job.
        owner: Only a job of this key is found; None finds everybody's.

    Raises:
        NotFound: There is no such job, or it is somebody else's.
    """
    job = session.get(Job, job_id)
    if job is None or (owner is not None and job.owner != owner):
        raise _no_job(job_id)
    return job


def view(session: Session, job_id: str, *, owner: str | None) -> tuple[wire.Job, Glance]:
    """Give a job as the wire shows it, with what a glance at the same moment gives.

    Raises:
        NotFound: There is no such job, or it is somebody else's.
    """
    execute = session.connection().execute
    job = execute(_ONE, {"id": job_id}).one_or_none()
    if job is None or (owner is not None and job.owner != owner):
        raise _no_job(job_id)
    inputs = {row.field: row.upload_id for row in execute(_ITS_INPUTS, {"id": job_id})}
    succeeded = job.status == Status.SUCCEEDED
    made = execute(_ITS_ARTIFACTS, {"id": job_id}).all() if succeeded else ()
    return _show(job, job.position, inputs, made), Glance(job.status, job.version, job.position)


def show_all(session: Session, rows: Sequence[_Row]) -> list[wire.Job]:
    """Give rows of the job table as the wire shows them, in their order."""
    ids = [job.id for job in rows]
    inputs, made = _inputs(session, ids), _artifacts(session, ids)
    positions = _positions(session, rows)
    return [
        _show(job, positions.get(job.id), inputs.get(job.id, {}), made.get(job.id, ()))
        for job in rows
    ]


def events(
    session: Session, job_id: str, *, after: int = 0, limit: int = 500
) -> Sequence[wire.Event]:
    """Give a job's stored events after an id, oldest first."""
    rows = session.exec(
        select(JobEvent)
        .where(col(JobEvent.job_id) == job_id, col(JobEvent.id) > after)
        .order_by(col(JobEvent.id))
        .limit(limit)
    ).all()
    return [
        wire.Event.model_validate(
            {"id": row.id, "job_id": row.job_id, "type": row.type, "at": row.at, "data": row.data}
        )
        for row in rows
    ]


def artifact(
    session: Session, job_id: str, name: str, *, owner: str | None
) -> tuple[Artifact, Blob]:
    """Give an artifact and its blob, detached from the session.

    Raises:
        NotFound: The job has no such artifact, or is not visible.
    """
    load(session, job_id, owner=owner)
    row = session.exec(
        select(Artifact, Blob)
        .join(Blob, col(Blob.id) == col(Artifact.blob_id))
        .where(col(Artifact.job_id) == job_id, col(Artifact.name) == name)
    ).first()
    if row is None:
        raise NotFound(f"The job has no artifact {name!r} (yet).")
    session.expunge_all()
    return row[0], row[1]


def last_attempt(session: Session, job_id: str) -> Attempt | None:
    """Give the latest attempt of a job, detached from the session."""
    found = session.exec(
        select(Attempt).where(col(Attempt.job_id) == job_id).order_by(col(Attempt.number).desc())
    ).first()
    session.expunge_all()
    return found


def queue_state(session: Session) -> QueueState:
    """Count the unfinished jobs."""
    rows = session.execute(
        sa.select(col(Job.status), sa.func.count(), sa.func.min(col(Job.created_at)))
        .where(col(Job.status).in_(sorted(OPEN)))
        .group_by(col(Job.status))
    ).all()
    found = {status: (count, oldest) for status, count, oldest in rows}
    queued, oldest = found.get(Status.QUEUED, (0, None))
    return QueueState(queued, found.get(Status.RUNNING, (0, None))[0], oldest)


# --- rows to wire ------------------------------------------------------------------------------


def _no_job(job_id: str) -> NotFound:
    return NotFound(f"There is no job {job_id!r}, or it belongs to another key.")


def _show(
    job: _Row,
    position: int | None,
    inputs: Mapping[str, str],
    made: Sequence[_Row],
) -> wire.Job:
    base = f"/v1/jobs/{job.id}"
    artifacts = tuple(_show_artifact(base, artifact) for artifact in made)
    request: dict[str, Any] = {
        **job.request,
        **{name: {"upload_id": upload_id} for name, upload_id in inputs.items()},
    }
    started = job.started_at
    return wire.Job.model_validate(
        {
            "id": job.id,
            "key_id": job.owner,
            "workflow": job.workflow,
            "status": job.status,
            "phase": job.phase,
            "progress": {
                "fraction": job.fraction,
                "step": job.step,
                "steps": job.steps,
                "node": job.node,
                "eta_seconds": _eta(job),
            },
            "queue_position": position,
            "waiting": job.waiting,
            "reason": job.reason,
            "priority": job.priority,
            "attempt": job.attempt,
            "created_at": job.created_at,
            "started_at": started,
            "finished_at": job.finished_at,
            "expires_at": None,
            "cancel_requested": job.cancel_requested_at is not None,
            "request": request,
            "metadata": job.labels,
            "batch_id": job.batch_id,
            "warnings": job.warnings,
            "artifacts": artifacts,
            "error": job.error,
            "usage": {
                "queue_seconds": (started - job.created_at).total_seconds() if started else None,
                "gpu_seconds": job.gpu_seconds,
                "peak_vram_mib": job.peak_vram_mib,
            },
            "links": {
                "self": base,
                "cancel": f"{base}/cancel",
                "events": f"{base}/events",
                "video": f"{base}/video" if job.status == Status.SUCCEEDED else None,
            },
        }
    )


def _eta(job: _Row) -> float | None:
    if job.eta_at is None or job.status != Status.RUNNING:
        return None
    seconds: float = (job.eta_at - datetime.now(UTC)).total_seconds()
    return max(round(seconds, 1), 0.0)


def _show_artifact(base: str, made: _Row) -> wire.Artifact:
    path = "video" if made.name == "video" else f"artifacts/{made.name}"
    return wire.Artifact(
        name=made.name,
        media_type=made.media_type,
        bytes=made.bytes,
        sha256=made.sha256,
        width=made.width,
        height=made.height,
        frames=made.frames,
        fps=made.fps,
        duration_seconds=made.duration_seconds,
        url=f"{base}/{path}",
    )


def _inputs(session: Session, ids: Sequence[str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for job_id, name, upload_id in session.connection().execute(_INPUTS, {"ids": ids}):
        found.setdefault(job_id, {})[name] = upload_id
    return found


def _artifacts(session: Session, ids: Sequence[str]) -> dict[str, list[_Row]]:
    found: dict[str, list[_Row]] = {}
    for made in session.connection().execute(_ARTIFACTS, {"ids": ids}):
        found.setdefault(made.job_id, []).append(made)
    return found


def _positions(session: Session, jobs: Sequence[_Row]) -> dict[str, int]:
    """How many jobs are offered before each of a page, from one walk over the queue's index."""
    wanted = {job.id for job in jobs if job.status == Status.QUEUED}
    if not wanted:
        return {}
    order = sa.func.row_number().over(order_by=(col(Job.priority).desc(), col(Job.id)))
    ranked = (
        sa.select(col(Job.id).label("id"), (order - 1).label("place"))
        .where(col(Job.status) == Status.QUEUED)
        .subquery()
    )
    rows = session.execute(
        sa.select(ranked.c.id, ranked.c.place).where(ranked.c.id.in_(wanted))
    ).all()
    return {job_id: int(place) for job_id, place in rows}
