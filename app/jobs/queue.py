"""THE STATE MACHINE: the only writer of job, attempt and event rows.

Every move is one function and one conditional UPDATE whose WHERE clause repeats `states.MOVES`.
No row changed means 'no longer yours': the function writes nothing and says so. The event and the
webhook messages of a move are written in the same transaction. Each function takes an open
session and belongs inside `Database.write`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.engine import CursorResult
from sqlmodel import Session, SQLModel, col, select
from uuid_utils import compat as uuids

from app.errors import FAILURES, IdempotencyMismatch
from app.jobs import distribution
from app.jobs.states import MOVES, Caps, GiveUp, Loss, Losses, Move, Status, after_loss
from app.jobs.tables import Attempt, IdempotencyKey, Job
from app.media.tables import Artifact
from app.webhooks import outbox
from app.wire import EventType, VramWait

_NOISE_MIB = 128

WAITED_TOO_LONG = "The job was not started within the time it may wait."

# Made once, and run without mapped objects: a submission is made of five of them.
_JOBS = sa.insert(SQLModel.metadata.tables["job"])
_LABELS = sa.insert(SQLModel.metadata.tables["job_label"])
_INPUTS = sa.insert(SQLModel.metadata.tables["job_input"])
_KEYS = sa.insert(SQLModel.metadata.tables["idempotency_key"])
_EVENTS = sa.insert(SQLModel.metadata.tables["job_event"])

WEBHOOK_EVENTS = frozenset({"job.running", "job.succeeded", "job.failed", "job.canceled"})


# --- values ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A caller's key for a request, and what the request was."""

    key: str
    body_sha256: str


@dataclass(frozen=True, slots=True)
class NewJob:
    """All that a submission decides."""

    workflow: str
    owner: str | None
    request: Mapping[str, Any]
    inputs: Mapping[str, str]
    shape: str
    formula_mib: int
    low_memory_shape: str
    low_memory_mib: int
    priority: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    webhook: Mapping[str, Any] | None = None
    trace: Mapping[str, str] | None = None
    max_queue_seconds: float | None = None
    max_run_seconds: float | None = None
    batch_id: str | None = None
    idempotency: Idempotency | None = None


@dataclass(frozen=True, slots=True)
class Submitted:
    """The job a submission gave; `replayed` if an earlier one with the same key gave it."""

    job_id: str
    replayed: bool


@dataclass(frozen=True, slots=True)
class Fence:
    """The right to move a job: lost as soon as another attempt is made."""

    job_id: str
    number: int
    attempt_id: str


@dataclass(frozen=True, slots=True)
class Report:
    """What an attempt says of itself. None leaves a field as it is."""

    phase: str | None = None
    fraction: float | None = None
    step: int | None = None
    steps: int | None = None
    node: str | None = None
    eta_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class FailureNote:
    """Why a job fails.

    Attributes:
        type: A slug of `errors.FAILURES`.
        detail: What happened, without paths of the server.
        private: What only the operator may read.
    """

    type: str
    detail: str
    node_id: str | None = None
    node_type: str | None = None
    private: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What an attempt cost."""

    gpu_seconds: float | None = None
    peak_vram_mib: int | None = None
    vram_timeline: Sequence[Any] | None = None


@dataclass(frozen=True, slots=True)
class NewArtifact:
    """A stored blob that is to become a job's artifact."""

    name: str
    blob_id: int
    media_type: str
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    duration_seconds: float | None = None


# --- submission ------------------------------------------------------------------------------


def submit(session: Session, new: NewJob, *, now: datetime) -> Submitted:
    """Store an accepted request as a queued job, with its idempotency row and first event.

    Raises:
        IdempotencyMismatch: The key was used before with another body.
    """
    if new.idempotency is not None:
        earlier = find_idempotent(session, new.owner, new.idempotency)
        if earlier is not None:
            return Submitted(earlier, replayed=True)
    job_id = str(uuids.uuid7())
    insert = session.connection().execute
    insert(
        _JOBS,
        {
            "id": job_id,
            "owner": new.owner,
            "workflow": new.workflow,
            "status": Status.QUEUED,
            "phase": "waiting_for_turn",
            "priority": new.priority,
            "batch_id": new.batch_id,
            "request": dict(new.request),
            "labels": dict(new.labels),
            "warnings": list(new.warnings),
            "webhook": dict(new.webhook) if new.webhook is not None else None,
            "trace": dict(new.trace) if new.trace is not None else None,
            "shape": new.shape,
            "formula_mib": new.formula_mib,
            "low_memory_shape": new.low_memory_shape,
            "low_memory_mib": new.low_memory_mib,
            "created_at": now,
            "max_queue_seconds": new.max_queue_seconds,
            "queue_deadline": _deadline(new.max_queue_seconds, now),
            "max_run_seconds": new.max_run_seconds,
        },
    )
    if new.labels:
        labels = new.labels.items()
        insert(_LABELS, [{"job_id": job_id, "key": key, "value": value} for key, value in labels])
    if new.inputs:
        inputs = new.inputs.items()
        insert(
            _INPUTS, [{"job_id": job_id, "field": name, "upload_id": id_} for name, id_ in inputs]
        )
    if new.idempotency is not None:
        key = {
            "owner": new.owner or "",
            "key": new.idempotency.key,
            "body_sha256": new.idempotency.body_sha256,
        }
        insert(_KEYS, {**key, "job_id": job_id, "created_at": now})
    _log(session, job_id, "job.queued", {}, now=now)
    distribution.offer(
        session,
        job_id,
        workflow=new.workflow,
        owner=new.owner,
        priority=new.priority,
        need_mib=new.formula_mib,
    )
    for warning in new.warnings:
        _log(session, job_id, "job.warning", {"detail": warning}, now=now)
    return Submitted(job_id, replayed=False)


def find_idempotent(session: Session, owner: str | None, wanted: Idempotency) -> str | None:
    """Give the job that this key made before, if any.

    Raises:
        IdempotencyMismatch: The key was used before with another body.
    """
    row = session.get(IdempotencyKey, (owner or "", wanted.key))
    if row is None:
        return None
    if row.body_sha256 != wanted.body_sha256:
        raise IdempotencyMismatch(
            f"The Idempotency-Key {wanted.key!r} was used at {row.created_at.isoformat()} for a "
            "request with another body. Send the same body, or choose a new key."
        )
    return row.job_id


def forget_idempotency(session: Session, *, before: datetime) -> int:
    """Delete keys older than the replay window and say how many."""
    statement = sa.delete(IdempotencyKey).where(col(IdempotencyKey.created_at) < before)
    return _count(session, statement)


# --- the moves ---------------------------------------------------------------------------------


def claim(
    session: Session,
    job_id: str,
    *,
    engine: str,
    attempt_id: str,
    low_memory: bool = False,
    now: datetime,
) -> Fence | None:
    """Give a queued job to an engine: attempt and prompt id are stored before ComfyUI hears.

    With `low_memory` it runs with its workflow's low-memory settings, now and later.
    """
    job = session.get(Job, job_id)
    if job is None:
        return None
    number = job.attempt + 1
    low_memory = low_memory or job.low_memory
    moved = _move(
        session,
        Move.CLAIM,
        job_id,
        now=now,
        number=job.attempt,
        attempt=number,
        attempt_id=attempt_id,
        engine=engine,
        low_memory=low_memory,
        phase="uploading",
        reason=None,
        waiting=None,
        fraction=0.0,
        step=None,
        steps=None,
        node=None,
        eta_at=None,
    )
    if not moved:
        return None
    session.add(
        Attempt(
            id=attempt_id,
            job_id=job_id,
            number=number,
            engine=engine,
            low_memory=low_memory,
            claimed_at=now,
            heartbeat_at=now,
        )
    )
    _log(session, job_id, "job.running", {"attempt": number, "low_memory": low_memory}, now=now)
    return Fence(job_id, number, attempt_id)


def submitting(session: Session, fence: Fence, *, graph: Mapping[str, Any], now: datetime) -> bool:
    """Note, before it happens, that ComfyUI is about to be given this graph."""
    if not _move(session, Move.REPORT, fence.job_id, now=now, number=fence.number):
        return False
    return _attempt(session, fence, submitting_at=now, heartbeat_at=now, graph=dict(graph))


def sent(session: Session, fence: Fence, *, remote_id: str, now: datetime) -> bool:
    """Note under which id a serverless endpoint has the attempt."""
    if not _move(session, Move.REPORT, fence.job_id, now=now, number=fence.number):
        return False
    return _attempt(session, fence, remote_id=remote_id, heartbeat_at=now)


def start(session: Session, fence: Fence, *, now: datetime) -> bool:
    """Note that ComfyUI began to execute the attempt."""
    moved = _move(
        session,
        Move.START,
        fence.job_id,
        now=now,
        number=fence.number,
        phase="starting",
        started_at=sa.func.coalesce(Job.started_at, _utc(now)),
    )
    if not moved:
        return False
    _attempt(session, fence, started_at=now, heartbeat_at=now)
    _log(session, fence.job_id, "job.phase", {"phase": "starting"}, now=now)
    return True


def heartbeat(session: Session, fence: Fence, report: Report, *, now: datetime) -> bool:
    """Store an attempt's progress. `fraction` never goes back within an attempt."""
    job = session.get(Job, fence.job_id)
    if job is None:
        return False
    changes: dict[str, Any] = {
        name: value
        for name in ("phase", "step", "steps", "node", "eta_at")
        if (value := getattr(report, name)) is not None
    }
    if report.fraction is not None:
        changes["fraction"] = max(job.fraction, min(report.fraction, 1.0))
    before = job.phase
    if not _move(session, Move.REPORT, fence.job_id, now=now, number=fence.number, **changes):
        return False
    _attempt(session, fence, heartbeat_at=now)
    if report.phase is not None and report.phase != before:
        _log(session, fence.job_id, "job.phase", {"phase": report.phase}, now=now)
    elif report.fraction is not None:
        data = {
            "fraction": changes["fraction"],
            "step": report.step,
            "steps": report.steps,
            "node": report.node,
        }
        _log(session, fence.job_id, "job.progress", data, now=now)
    return True


def succeed(
    session: Session,
    fence: Fence,
    *,
    artifacts: Sequence[NewArtifact],
    usage: Usage,
    now: datetime,
) -> bool:
    """End a job well: its artifacts are linked in the same transaction. One must be `video`."""
    made = {artifact.name: str(uuids.uuid7()) for artifact in artifacts}
    moved = _move(
        session,
        Move.SUCCEED,
        fence.job_id,
        now=now,
        number=fence.number,
        video_artifact_id=made["video"],
        fraction=1.0,
        eta_at=None,
        gpu_seconds=usage.gpu_seconds,
        peak_vram_mib=usage.peak_vram_mib,
    )
    if not moved:
        return False
    for artifact in artifacts:
        session.add(
            Artifact(
                id=made[artifact.name],
                job_id=fence.job_id,
                name=artifact.name,
                blob_id=artifact.blob_id,
                media_type=artifact.media_type,
                width=artifact.width,
                height=artifact.height,
                frames=artifact.frames,
                fps=artifact.fps,
                duration_seconds=artifact.duration_seconds,
                created_at=now,
            )
        )
    _end_attempt(session, fence, "succeeded", usage=usage, now=now)
    _log(session, fence.job_id, "job.succeeded", {}, now=now)
    return True


def fail(
    session: Session,
    fence: Fence,
    note: FailureNote,
    *,
    usage: Usage | None = None,
    log_tail: str | None = None,
    now: datetime,
) -> bool:
    """End a running job badly."""
    usage = usage or Usage()
    error = _error(note)
    moved = _move(
        session,
        Move.FAIL,
        fence.job_id,
        now=now,
        number=fence.number,
        error=error,
        eta_at=None,
        gpu_seconds=usage.gpu_seconds,
        peak_vram_mib=usage.peak_vram_mib,
    )
    if not moved:
        return False
    _end_attempt(
        session, fence, note.type, usage=usage, detail=note.private, log_tail=log_tail, now=now
    )
    _log(session, fence.job_id, "job.failed", {"error": error}, now=now)
    return True


def lose(
    session: Session,
    fence: Fence,
    loss: Loss,
    note: FailureNote,
    *,
    caps: Caps,
    usage: Usage | None = None,
    log_tail: str | None = None,
    not_before: datetime | None = None,
    now: datetime,
) -> bool:
    """Requeue a job whose attempt was lost, or fail it when the table of retries says so.

    Args:
        session: The open transaction.
        fence: The lost attempt.
        loss: How it was lost.
        note: What is said if the job fails by this loss; its detail is also the event's reason.
        caps: When to give up.
        usage: What the attempt cost.
        log_tail: The last lines of the engine's log, for the operator.
        not_before: Do not offer the job again before this time.
        now: The time of the move.
    """
    # Locked, where others write beside us: a cancel that comes between look and move is not lost.
    job = session.get(Job, fence.job_id, with_for_update=True)
    if job is None or job.attempt != fence.number:
        return False
    before = Losses(job.lost_executing, job.lost_deaths, job.lost_stalls, job.lost_oom)
    workflow, owner, priority = job.workflow, job.owner, job.priority
    formula_mib, low_memory_mib = job.formula_mib, job.low_memory_mib
    verdict = after_loss(loss, before, low_memory=job.low_memory, caps=caps)
    if loss is Loss.NOT_STARTED and job.attempt >= caps.max_unstarted:
        verdict = GiveUp("engine-died", before)
    if job.cancel_requested_at is not None:
        return stop(session, fence, usage=usage, now=now)
    if isinstance(verdict, GiveUp):
        final = FailureNote(
            verdict.failure, note.detail, note.node_id, note.node_type, note.private
        )
        return fail(session, fence, final, usage=usage, log_tail=log_tail, now=now)
    moved = _move(
        session,
        Move.REQUEUE,
        fence.job_id,
        now=now,
        number=fence.number,
        reason=note.detail,
        not_before=not_before,
        # A run that began has ended its wait; the next wait is measured anew. One that never
        # began goes on waiting, so that an engine that takes nothing cannot hold a job for ever.
        queue_deadline=_deadline(job.max_queue_seconds, now)
        if verdict.counted or job.started_at is not None
        else job.queue_deadline,
        low_memory=verdict.low_memory,
        lost_executing=verdict.losses.executing,
        lost_deaths=verdict.losses.deaths,
        lost_stalls=verdict.losses.stalls,
        lost_oom=verdict.losses.out_of_memory,
        **_UNCLAIMED,
    )
    if not moved:
        return False
    _end_attempt(
        session, fence, loss.value, usage=usage, detail=note.private, log_tail=log_tail, now=now
    )
    data = {"reason": note.detail, "loss": loss.value, "counted": verdict.counted}
    _log(session, fence.job_id, "job.queued", data, now=now)
    distribution.offer(
        session,
        fence.job_id,
        workflow=workflow,
        owner=owner,
        priority=priority,
        need_mib=low_memory_mib if verdict.low_memory else formula_mib,
        again=True,
        not_before=not_before,
    )
    return True


def cancel(session: Session, job_id: str, *, now: datetime) -> bool:
    """Cancel a queued job at once; mark a running one. Say whether anything changed."""
    session.get(Job, job_id, with_for_update=True)  # or it may be requeued between the two tries
    if _move(session, Move.CANCEL, job_id, now=now, reason=None, waiting=None):
        _log(session, job_id, "job.canceled", {}, now=now)
        return True
    statement = (
        sa.update(Job)
        .where(
            col(Job.id) == job_id,
            col(Job.status) == Status.RUNNING,
            col(Job.cancel_requested_at).is_(None),
        )
        .values(cancel_requested_at=now, version=Job.version + 1)
    )
    if _count(session, statement) != 1:
        return False
    distribution.changed(session, job_id)
    distribution.cancel_asked(session, job_id)
    return True


def stop(session: Session, fence: Fence, *, usage: Usage | None = None, now: datetime) -> bool:
    """End a running job as canceled, once its prompt is out of the engine."""
    usage = usage or Usage()
    if not _move(
        session,
        Move.STOP,
        fence.job_id,
        now=now,
        number=fence.number,
        eta_at=None,
        gpu_seconds=usage.gpu_seconds,
        peak_vram_mib=usage.peak_vram_mib,
    ):
        return False
    _end_attempt(session, fence, "canceled", usage=usage, now=now)
    _log(session, fence.job_id, "job.canceled", {}, now=now)
    return True


def expire(session: Session, job_id: str, note: FailureNote, *, now: datetime) -> bool:
    """Fail a job that still waits: its deadline passed, or it can never run here."""
    error = _error(note)
    moved = _move(session, Move.EXPIRE, job_id, now=now, error=error, reason=None, waiting=None)
    if moved:
        _log(session, job_id, "job.failed", {"error": error}, now=now)
    return moved


def wait(
    session: Session, job_id: str, *, phase: str, reason: str, vram: VramWait | None, now: datetime
) -> bool:
    """Say in a queued job why it waits. Figures that hardly changed are not written again."""
    job = session.get(Job, job_id)
    if job is None or job.status != Status.QUEUED:
        return False
    changed = job.phase != phase
    waiting = vram.model_dump() if vram is not None else None
    same_words = waiting is not None or job.reason == reason
    if not changed and same_words and _is_close(job.waiting, waiting):
        return False
    statement = (
        sa.update(Job)
        .where(col(Job.id) == job_id, col(Job.status) == Status.QUEUED)
        .values(
            phase=phase,
            reason=reason,
            waiting=waiting,
            vram_wait_since=(job.vram_wait_since or now) if vram is not None else None,
            version=Job.version + 1,
        )
    )
    if _count(session, statement) != 1:
        return False
    distribution.changed(session, job_id)
    if changed:
        data = {"phase": phase, "reason": reason, "waiting": waiting}
        _log(session, job_id, "job.phase", data, now=now)
    return True


def shift_deadlines(session: Session, by: timedelta) -> int:
    """Move the times that queued jobs wait for, and since when, after the clock was set.

    Returns:
        How many jobs there were.
    """
    jobs = session.exec(select(Job).where(col(Job.status) == Status.QUEUED)).all()
    for job in jobs:
        for name in ("queue_deadline", "not_before", "vram_wait_since"):
            if (at := getattr(job, name)) is not None:
                setattr(job, name, at + by)
        session.add(job)
    return len(jobs)


def delete(session: Session, job_id: str) -> bool:
    """Remove a finished job with all that belongs to it. An unfinished one stays."""
    statement = sa.delete(Job).where(col(Job.id) == job_id, col(Job.finished_at).is_not(None))
    return _count(session, statement) == 1


# --- how a move is made --------------------------------------------------------------------------


_UNCLAIMED: dict[str, Any] = {
    "attempt_id": None,
    "engine": None,
    "phase": "waiting_for_turn",
    "waiting": None,
    "fraction": 0.0,
    "step": None,
    "steps": None,
    "node": None,
    "eta_at": None,
    "started_at": None,
    "vram_wait_since": None,
}


def _move(
    session: Session,
    move: Move,
    job_id: str,
    *,
    now: datetime,
    number: int | None = None,
    **values: Any,  # noqa: ANN401 - column values
) -> bool:
    """Make one guarded update. `number` is the attempt that the row must still be at."""
    rule = MOVES[move]
    if rule.fenced and number is None:
        raise TypeError(f"the move {move} is fenced: it needs the attempt's number")
    where = [col(Job.id) == job_id, col(Job.status).in_(sorted(rule.before))]
    if number is not None:
        where.append(col(Job.attempt) == number)
    changes: dict[str, Any] = {"version": Job.version + 1, **_storable(values)}
    if rule.after is not None:
        changes["status"] = rule.after
        if rule.after in {Status.SUCCEEDED, Status.FAILED, Status.CANCELED}:
            changes |= {"finished_at": now, "attempt_id": None, "phase": None, "waiting": None}
    moved = _count(session, sa.update(Job).where(*where).values(**changes)) == 1
    if moved:
        distribution.changed(session, job_id)
    return moved


def _count(session: Session, statement: sa.Update | sa.Delete) -> int:
    result = session.execute(statement.execution_options(synchronize_session=False))
    session.expire_all()
    return cast("CursorResult[Any]", result).rowcount


def _attempt(session: Session, fence: Fence, **values: Any) -> bool:  # noqa: ANN401
    statement = (
        sa.update(Attempt)
        .where(col(Attempt.id) == fence.attempt_id, col(Attempt.finished_at).is_(None))
        .values(**_storable(values))
    )
    return _count(session, statement) == 1


def _storable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Give values without NUL, which PostgreSQL cannot hold: engines and logs say anything.

    An attempt whose end could not be written would never end.
    """
    return {
        name: value.replace("\x00", "\ufffd") if isinstance(value, str) else value
        for name, value in values.items()
    }


def _end_attempt(
    session: Session,
    fence: Fence,
    outcome: str,
    *,
    usage: Usage | None = None,
    detail: str | None = None,
    log_tail: str | None = None,
    now: datetime,
) -> None:
    usage = usage or Usage()
    _attempt(
        session,
        fence,
        finished_at=now,
        outcome=outcome,
        detail=detail,
        log_tail=log_tail,
        peak_vram_mib=usage.peak_vram_mib,
        vram_timeline=list(usage.vram_timeline) if usage.vram_timeline is not None else None,
    )


def _log(
    session: Session, job_id: str, kind: EventType, data: Mapping[str, Any], *, now: datetime
) -> None:
    """Write the event, and the webhook message if the job asked for one of this kind."""
    event = {"job_id": job_id, "type": kind, "at": now, "data": dict(data)}
    session.connection().execute(_EVENTS, event)
    if kind not in WEBHOOK_EVENTS:
        return
    owner, webhook, trace = session.exec(
        select(Job.owner, Job.webhook, Job.trace).where(col(Job.id) == job_id)
    ).one()
    if webhook is None or kind not in webhook["events"]:
        return
    outbox.enqueue(
        session,
        job_id=job_id,
        owner=owner,
        url=webhook["url"],
        event_type=kind,
        payload={"type": kind, "timestamp": now.isoformat(), "data": {"job_id": job_id, **data}},
        now=now,
        trace=trace,
    )


def _is_close(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> bool:
    """Whether two waits for memory say the same but for noise in the readings."""
    if before is None or now is None:
        return before is now
    figures = ("need_mib", "room_mib", "others_mib")
    return all(abs(before[name] - now[name]) < _NOISE_MIB for name in figures)


def _deadline(seconds: float | None, now: datetime) -> datetime | None:
    return now + timedelta(seconds=seconds) if seconds is not None else None


def _error(note: FailureNote) -> dict[str, Any]:
    kind = FAILURES[note.type]
    return {
        "type": note.type,
        "title": kind.title,
        "detail": note.detail,
        "advice": kind.advice,
        "retryable": kind.retryable,
        "node_id": note.node_id,
        "node_type": note.node_type,
    }


def _utc(now: datetime) -> sa.BindParameter[datetime]:
    return sa.literal(now, type_=Job.__table__.c.started_at.type)  # type: ignore[attr-defined]
