"""How long a run takes, by what earlier runs took for the work that they had."""

from __future__ import annotations

from sqlmodel import Session, col, select

from app.jobs.states import Status
from app.jobs.tables import Job
from app.workflows.values import Resolved
from app.workflows.workflow import Workflow

_RECENT = 20


def expected_seconds(session: Session, workflow: Workflow, resolved: Resolved) -> float | None:
    """Seconds that a run takes: by the median pace of its shape, else by that of other shapes.

    A shape says nothing of the number of steps, so even its own runs count by their work.
    """
    runs = (
        select(Job.request, Job.gpu_seconds)
        .where(
            col(Job.workflow) == workflow.name,
            col(Job.status) == Status.SUCCEEDED,
            col(Job.gpu_seconds).is_not(None),
        )
        .order_by(col(Job.id).desc())
        .limit(_RECENT)
    )
    for query in (runs.where(col(Job.shape) == resolved.shape.key), runs):
        paces = sorted(
            seconds / workflow.rules.work(request)
            for request, seconds in session.exec(query)
            if seconds is not None
        )
        if paces:
            return round(paces[len(paces) // 2] * workflow.work(resolved), 1)
    return None
