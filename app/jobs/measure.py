"""From the rows of an attempt that ended to the metrics that a scrape gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import structlog
from sqlmodel import Session, col, select

from app.database import Database
from app.errors import StoreUnavailable
from app.jobs.queue import Fence
from app.jobs.states import TERMINAL
from app.jobs.tables import Attempt, Job, JobEvent
from app.telemetry import Metrics

log = structlog.get_logger(__name__)

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Course:
    """What an attempt was: how it ended, and how long each phase took, in seconds."""

    workflow: str
    status: str
    outcome: str
    queue_seconds: float | None
    run_seconds: float | None
    peak_mib: int | None
    phases: Sequence[tuple[str, float]]


def course(session: Session, fence: Fence) -> Course | None:
    """Read an attempt that ended; None if it has not, or is gone."""
    attempt = session.get(Attempt, fence.attempt_id)
    job = session.get(Job, fence.job_id)
    if attempt is None or job is None or attempt.finished_at is None:
        return None
    events = session.exec(
        select(JobEvent)
        .where(col(JobEvent.job_id) == job.id, col(JobEvent.at) >= attempt.claimed_at)
        .order_by(col(JobEvent.id))
    ).all()
    marks: list[tuple[str, datetime]] = [("uploading", attempt.claimed_at)]
    marks += [(event.data["phase"], event.at) for event in events if event.type == "job.phase"]
    marks.append(("end", attempt.finished_at))
    started = attempt.started_at
    return Course(
        workflow=job.workflow,
        status=job.status,
        outcome=attempt.outcome or "",
        queue_seconds=(started - job.created_at).total_seconds() if started else None,
        run_seconds=(attempt.finished_at - started).total_seconds() if started else None,
        peak_mib=attempt.peak_vram_mib,
        phases=[
            (phase, (after - before).total_seconds())
            for (phase, before), (_, after) in pairwise(marks)
        ],
    )


async def measure(db: Database, metrics: Metrics, fence: Fence) -> None:
    """Count an attempt that ended, where the store can be read."""
    try:
        seen = await db.read(lambda session: course(session, fence))
    except StoreUnavailable as error:
        log.warning("the end of an attempt is not counted", reason=error.detail)
        return
    if seen is None:
        return
    if seen.status in TERMINAL:
        metrics.finished.labels(seen.workflow, seen.status).inc()
    else:
        metrics.lost.labels(seen.outcome).inc()
    if seen.queue_seconds is not None:
        metrics.queue_wait.labels(seen.workflow).observe(seen.queue_seconds)
    if seen.run_seconds is not None:
        metrics.run.labels(seen.workflow).observe(seen.run_seconds)
    if seen.peak_mib is not None:
        metrics.vram_peak.labels(seen.workflow).observe(seen.peak_mib * _MIB)
    for phase, seconds in seen.phases:
        metrics.phase.labels(seen.workflow, phase).observe(max(seconds, 0.0))
