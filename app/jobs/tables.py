"""The rows of a job's life. `queue.py` is their only writer."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from app.jobs.states import OPEN, Status

_STATUSES = ", ".join(f"'{status}'" for status in Status)
_OPEN = ", ".join(f"'{status}'" for status in Status if status in OPEN)


def _json() -> Any:  # noqa: ANN401 - SQLModel's Field gives Any by design
    return Field(sa_type=sa.JSON, default_factory=dict)


class Job(SQLModel, table=True):
    """One accepted request."""

    __tablename__ = "job"
    __table_args__ = (
        sa.CheckConstraint(f"status IN ({_STATUSES})", name="ck_job_status"),
        sa.CheckConstraint(
            f"(finished_at IS NULL) = (status IN ({_OPEN}))", name="ck_job_finished_iff_terminal"
        ),
        sa.CheckConstraint(
            "(attempt_id IS NOT NULL) = (status = 'running')", name="ck_job_attempt_iff_running"
        ),
        sa.CheckConstraint(
            "status <> 'succeeded' OR video_artifact_id IS NOT NULL",
            name="ck_job_succeeded_has_video",
        ),
        sa.CheckConstraint(
            "(status = 'failed') = (error IS NOT NULL)", name="ck_job_error_iff_failed"
        ),
        sa.Index("ix_job_queue", "status", sa.text("priority DESC"), "id"),
        sa.Index("ix_job_status", "status", "id"),
        sa.Index("ix_job_owner", "owner", "id"),
        sa.Index("ix_job_owner_status", "owner", "status", "id"),
        sa.Index("ix_job_workflow", "workflow", "id"),
        sa.Index("ix_job_batch", "batch_id"),
        sa.Index("ix_job_ended", "status", "finished_at"),
        sa.Index("ix_job_shape", "shape", "id"),
        sa.Index("ix_job_deadline", "status", "queue_deadline"),
    )

    id: str = Field(primary_key=True, description="UUIDv7: its order is the order of arrival")
    owner: str | None = Field(default=None, description="API key that made it; None on loopback")
    workflow: str
    status: str
    phase: str | None = None
    reason: str | None = Field(default=None, sa_type=sa.Text)
    waiting: dict[str, Any] | None = Field(default=None, sa_type=sa.JSON(none_as_null=True))
    priority: int = 0
    batch_id: str | None = None

    request: dict[str, Any] = _json()
    labels: dict[str, Any] = _json()
    warnings: list[str] = Field(sa_type=sa.JSON, default_factory=list)
    webhook: dict[str, Any] | None = Field(default=None, sa_type=sa.JSON(none_as_null=True))
    trace: dict[str, str] | None = Field(
        default=None,
        sa_type=sa.JSON(none_as_null=True),
        description="Trace headers of the call that made it",
    )

    shape: str = Field(default="", description="Key under which its peak memory is learned")
    formula_mib: int = 0
    low_memory_shape: str = ""
    low_memory_mib: int = 0
    low_memory: bool = False

    attempt: int = Field(default=0, description="Number of the last attempt: the fencing token")
    attempt_id: str | None = None
    engine: str | None = None
    lost_executing: int = 0
    lost_deaths: int = 0
    lost_stalls: int = 0
    lost_oom: int = 0
    not_before: datetime | None = None
    vram_wait_since: datetime | None = Field(
        default=None, description="Since when it waits for memory: smaller jobs may pass it so long"
    )

    fraction: float = 0.0
    step: int | None = None
    steps: int | None = None
    node: str | None = None
    eta_at: datetime | None = None

    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    max_queue_seconds: float | None = None
    queue_deadline: datetime | None = None
    max_run_seconds: float | None = None
    cancel_requested_at: datetime | None = None

    error: dict[str, Any] | None = Field(default=None, sa_type=sa.JSON(none_as_null=True))
    video_artifact_id: str | None = None
    gpu_seconds: float | None = None
    peak_vram_mib: int | None = None
    version: int = Field(default=1, description="Counts the changes; part of the ETag")


class JobLabel(SQLModel, table=True):
    """One entry of a job's metadata, kept apart so that listings can filter by it."""

    __tablename__ = "job_label"
    __table_args__ = (sa.Index("ix_job_label_pair", "key", "value", "job_id"),)

    job_id: str = Field(primary_key=True, foreign_key="job.id", ondelete="CASCADE")
    key: str = Field(primary_key=True)
    value: str


class JobInput(SQLModel, table=True):
    """Which upload a job uses for which field. An upload that is used is never swept."""

    __tablename__ = "job_input"
    __table_args__ = (sa.Index("ix_job_input_upload", "upload_id"),)

    job_id: str = Field(primary_key=True, foreign_key="job.id", ondelete="CASCADE")
    field: str = Field(primary_key=True)
    upload_id: str = Field(foreign_key="upload.id", ondelete="RESTRICT")


class Attempt(SQLModel, table=True):
    """One try at a job. Its id is the prompt id that ComfyUI is given."""

    __tablename__ = "attempt"
    __table_args__ = (
        sa.UniqueConstraint("job_id", "number", name="uq_attempt_job_number"),
        sa.Index("ix_attempt_open", "finished_at", "engine"),
    )

    id: str = Field(primary_key=True, description="UUID4, canonical: committed before it is sent")
    job_id: str = Field(foreign_key="job.id", ondelete="CASCADE")
    number: int
    engine: str
    low_memory: bool = False
    claimed_at: datetime
    heartbeat_at: datetime
    submitting_at: datetime | None = Field(
        default=None, description="Set before ComfyUI hears of it: from then on it may be there"
    )
    started_at: datetime | None = Field(default=None, description="ComfyUI said execution_start")
    remote_id: str | None = Field(
        default=None, description="The job's id at the serverless endpoint that runs the attempt"
    )
    finished_at: datetime | None = None
    outcome: str | None = None
    detail: str | None = Field(default=None, sa_type=sa.Text)
    log_tail: str | None = Field(default=None, sa_type=sa.Text)
    graph: dict[str, Any] | None = Field(default=None, sa_type=sa.JSON(none_as_null=True))
    peak_vram_mib: int | None = None
    vram_timeline: list[Any] | None = Field(default=None, sa_type=sa.JSON(none_as_null=True))


class JobEvent(SQLModel, table=True):
    """One fact about a job. Ids only grow, so that a reader can resume after any of them."""

    __tablename__ = "job_event"
    __table_args__ = (
        sa.Index("ix_job_event_job", "job_id", "id"),
        {"sqlite_autoincrement": True},
    )

    id: int | None = Field(default=None, primary_key=True)
    job_id: str = Field(foreign_key="job.id", ondelete="CASCADE")
    type: str
    at: datetime
    data: dict[str, Any] = _json()


class IdempotencyKey(SQLModel, table=True):
    """The first answer to a keyed request, replayed for the same key and body."""

    __tablename__ = "idempotency_key"
    __table_args__ = (sa.Index("ix_idempotency_key_created", "created_at"),)

    owner: str = Field(primary_key=True, description="Empty on loopback")
    key: str = Field(primary_key=True)
    body_sha256: str
    job_id: str = Field(foreign_key="job.id", ondelete="CASCADE")
    created_at: datetime
