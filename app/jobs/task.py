"""What an attempt has to know, read once when it begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlmodel import Session, col, select

from app.jobs.queue import Fence
from app.jobs.stager import SUBFOLDER
from app.jobs.tables import Attempt, Job
from app.workflows.values import Resolved
from app.workflows.workflow import Workflow


@dataclass(frozen=True, slots=True)
class Task:
    """What an attempt has to know of its job, read once."""

    fence: Fence
    workflow: str
    request: Mapping[str, Any]
    shape: str
    low_memory: bool
    max_run_seconds: float | None
    queue_deadline: datetime | None
    submitting_at: datetime | None
    started_at: datetime | None
    cancel_requested: bool
    graph: Mapping[str, Any] | None
    trace: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class Asked:
    """What the engine was asked for: all that judging its answer takes."""

    task: Task
    workflow: Workflow
    resolved: Resolved
    graph: Mapping[str, Any]

    @property
    def comment(self) -> str:
        """What the mp4 says of itself. Not the prompt, which is the client's own, unless asked."""
        request = self.task.request
        seed = f"seed {request['seed']}" if "seed" in request else ""
        return f"{seed}; {request['prompt']}" if request.get("prompt_in_video") else seed


def load_task(session: Session, fence: Fence) -> Task | None:
    """Read what the attempt needs; None if it is no longer the job's attempt."""
    row = session.exec(
        select(Job, Attempt)
        .join(Attempt, col(Attempt.id) == col(Job.attempt_id))
        .where(col(Job.id) == fence.job_id, col(Job.attempt) == fence.number)
    ).first()
    if row is None:
        return None
    job, attempt = row
    return Task(
        fence=fence,
        workflow=job.workflow,
        request=job.request,
        shape=job.low_memory_shape if attempt.low_memory else job.shape,
        low_memory=attempt.low_memory,
        max_run_seconds=job.max_run_seconds,
        queue_deadline=job.queue_deadline,
        submitting_at=attempt.submitting_at,
        started_at=attempt.started_at,
        cancel_requested=job.cancel_requested_at is not None,
        graph=attempt.graph,
        trace=job.trace,
    )


def prefix_of(fence: Fence) -> str:
    """Start of the names of all files that an attempt writes in the engine's output folder."""
    return f"{SUBFOLDER}/{fence.attempt_id}"
