"""The tries at a job, with what each took of the card."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from sqlmodel import Session, col, select

from app import errors
from app.access.scopes import Scope, seen_owner
from app.api.answers import CALLER, refusals, tagged_answer
from app.api.deps import JobId, Reader, TheServices
from app.api.models import Attempt, AttemptList
from app.jobs import tables, views

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])


@router.get(
    "/attempts",
    operation_id="list_attempts",
    summary="List a job's attempts",
    response_model=AttemptList,
    responses=refusals(*CALLER, errors.NotFound),
)
async def list_attempts(
    request: Request, caller: Reader, job_id: JobId, services: TheServices
) -> Response:
    """Give every attempt, how it ended, and its GPU memory over time where a card was read.

    `detail` and `log_tail` may hold paths of the engine's machine; only `admin` is told.
    """
    owner, admin = seen_owner(caller), caller.has(Scope.ADMIN)

    def look(session: Session) -> tuple[Attempt, ...]:
        views.load(session, job_id, owner=owner)
        rows = session.exec(
            select(tables.Attempt)
            .where(col(tables.Attempt.job_id) == job_id)
            .order_by(col(tables.Attempt.number))
        )
        found = (Attempt.model_validate(row, from_attributes=True) for row in rows)
        if admin:
            return tuple(found)
        return tuple(one.model_copy(update={"detail": None, "log_tail": None}) for one in found)

    return tagged_answer(request, AttemptList(attempts=await services.db.read(look)))
