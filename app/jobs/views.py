"""Reading jobs: rows to wire models, pages, events. Writes nothing."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Session, SQLModel, col, select

from app import wire
from app.errors import FieldError, InvalidRequest, NotFound
from app.jobs.glance import Glance
from app.jobs.states import OPEN, Status
from app.jobs.tables import Attempt, Job, JobEvent, JobInput
from app.media.tables import Artifact, Blob

_Row = sa.Row[*tuple[Any, ...]]

# Rows are read without mapped objects, by statements made once: in a third of the time, and looking
# at jobs is most of what a gateway does.
_JOB = SQLModel.metadata.tables["job"]
_LABEL = SQLModel.metadata.tables["job_label"]
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
class Filter:
    """Which jobs a listing shows. `owner` None shows everybody's."""

    owner: str | None = None
    status: tuple[str, ...] = ()
    workflow: str | None = None
    batch_id: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


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


def page(
    session: Session, which: Filter, *, limit: int, cursor: str | None
) -> tuple[list[wire.Job], str | None]:
    """Give one page, newest first, and the cursor of the next one.

    Raises:
        InvalidRequest: The cursor is none that a page gave.
    """
    before = _open_cursor(cursor) if cursor is not None else None
    # One query for each status: each walks an index in the order of the page and stops at the
    # limit, where one for several would read and sort all that have them.
    found = [
        newest(which, status, before=before).limit(limit + 1) for status in which.status or (None,)
    ]
    ids_found = sa.union_all(*(sa.select(part.subquery().c.id) for part in found))
    rows = (
        session.connection()
        .execute(
            sa.select(_JOB)
            .where(_JOB.c.id.in_(ids_found))
            .order_by(_JOB.c.id.desc())
            .limit(limit + 1)
        )
        .all()
    )
    shown = rows[:limit]
    ids = [job.id for job in shown]
    inputs, made = _inputs(session, ids), _artifacts(session, ids)
    positions = _positions(session, shown)
    jobs = [
        _show(job, positions.get(job.id), inputs.get(job.id, {}), made.get(job.id, ()))
        for job in shown
    ]
    return jobs, _make_cursor(shown[-1].id) if len(rows) > limit else None


def newest(which: Filter, status: str | None, *, before: str | None) -> sa.Select[str]:
    """Select the ids of a filter's jobs that have one status (None: any), newest first."""
    labels = [_LABEL.alias() for _ in which.labels]
    # The first label's index is the one that is walked: it holds the ids in their order.
    place = labels[0].c.job_id if labels else _JOB.c.id
    chosen = sa.select(place.label("id")).order_by(place.desc())
    if labels:
        chosen = chosen.join(_JOB, _JOB.c.id == place)
    for label, (key, value) in zip(labels, which.labels.items(), strict=True):
        chosen = chosen.where(label.c.key == key, label.c.value == value)
        if label is not labels[0]:
            chosen = chosen.where(label.c.job_id == place)
    equal = {"owner": which.owner, "workflow": which.workflow, "batch_id": which.batch_id}
    for name, wanted in ({"status": status} | equal).items():
        if wanted is not None:
            chosen = chosen.where(_JOB.c[name] == wanted)
    if which.created_after is not None:
        chosen = chosen.where(place >= _first_id(which.created_after))
    if which.created_before is not None:
        chosen = chosen.where(place < _first_id(which.created_before))
    return chosen.where(place < before) if before is not None else chosen


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


def expected_seconds(session: Session, shape: str) -> float | None:
    """Give the median run time of the last twenty jobs of a shape; None if there was none."""
    seconds = session.exec(
        select(Job.gpu_seconds)
        .where(
            col(Job.shape) == shape,
            col(Job.status) == Status.SUCCEEDED,
            col(Job.gpu_seconds).is_not(None),
        )
        .order_by(col(Job.id).desc())
        .limit(20)
    ).all()
    known = sorted(value for value in seconds if value is not None)
    return known[len(known) // 2] if known else None


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


# --- cursors -------------------------------------------------------------------------------------


def _make_cursor(job_id: str) -> str:
    return base64.urlsafe_b64encode(json.dumps({"before": job_id}).encode()).decode().rstrip("=")


def _open_cursor(cursor: str) -> str:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        opened = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        return str(UUID(opened["before"]))
    except (binascii.Error, ValueError, KeyError, TypeError, AttributeError) as error:
        detail = "is not a cursor; take `next_cursor` of an earlier page, or leave it out."
        raise InvalidRequest(
            f"The cursor {detail}", errors=[FieldError("/cursor", f"{cursor[:80]!r} {detail}")]
        ) from error


def _first_id(moment: datetime) -> str:
    """The smallest UUIDv7 of a millisecond: ids are in the order of time."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    milliseconds = max(
        int((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1)), 0
    )
    text = f"{milliseconds:012x}"
    return f"{text[:8]}-{text[8:12]}-7000-8000-000000000000"
