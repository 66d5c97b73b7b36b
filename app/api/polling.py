"""Looking at one job: the call that clients make thousands of times.

It asks FastAPI for the request alone: its parameters, declared by hand below, are three, and
resolving them as dependencies takes longer than everything else that the call does.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, cast

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from app import errors, wire
from app.access.scopes import seen_owner
from app.api.answers import CALLER, refusals
from app.api.conditional import matches
from app.api.deps import may_read, uuid_of
from app.api.examples import JOB_ID
from app.api.services import Services
from app.errors import FieldError, InvalidRequest
from app.jobs import views
from app.jobs.glance import Glance, glance
from app.jobs.states import TERMINAL, Status


class _Direct(APIRoute):
    """Gives the endpoint the request and takes its answer, with nothing resolved in between."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint itself."""
        return cast("Callable[[Request], Coroutine[Any, Any, Response]]", self.endpoint)


router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=_Direct)

_POLL_SECONDS = 5.0
"""A waiting call looks at the row at least this often, whoever forgot to wake it."""

_PARAMETERS: list[dict[str, Any]] = [
    {
        "name": "job_id",
        "in": "path",
        "required": True,
        "schema": {"type": "string"},
        "description": "Id of the job.",
        "example": JOB_ID,
    },
    {
        "name": "wait",
        "in": "query",
        "required": False,
        "schema": {"type": "number", "minimum": 0, "default": 0},
        "description": "Hold the answer until the status changes or the job ends, for so many "
        "seconds; more than 60 count as 60.",
    },
    {
        "name": "If-None-Match",
        "in": "header",
        "required": False,
        "schema": {"type": "string"},
        "description": "An earlier ETag: as long as it is true the answer is 304, without a body.",
    },
]


class JobTexts:
    """The texts of the jobs that were asked for last, each good for as long as its ETag.

    A running job is not kept: its `eta_seconds` goes by the clock.
    """

    def __init__(self, *, most: int = 1024) -> None:
        self._most = most
        self._texts: OrderedDict[str, tuple[Glance, bytes]] = OrderedDict()

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._texts

    def get(self, job_id: str, seen: Glance) -> bytes | None:
        """The text of a job as it was seen now."""
        known = self._texts.get(job_id)
        return known[1] if known is not None and known[0] == seen else None

    def keep(self, job_id: str, seen: Glance, text: bytes) -> None:
        """Remember a text."""
        if seen.status == Status.RUNNING:
            return
        self._texts.pop(job_id, None)
        self._texts[job_id] = (seen, text)
        if len(self._texts) > self._most:
            self._texts.popitem(last=False)


@router.get(
    "/{job_id}",  # noqa: FAST003 - read from the request, as said above
    operation_id="get_job",
    summary="Look at a job, or wait for it",
    response_model=wire.Job,
    responses={
        304: {"description": "The job is as the If-None-Match header says."},
        **refusals(*CALLER, errors.NotFound, errors.InvalidRequest),
    },
    openapi_extra={"parameters": _PARAMETERS},
)
async def get_job(request: Request) -> Response:
    """Give a job. Its weak ETag covers all but `eta_seconds`, so polling with it is cheap."""
    caller = await may_read(request)
    job_id = uuid_of(request.path_params["job_id"], "job")
    services = cast("Services", request.app.state.services)
    owner = seen_owner(caller)
    known = request.headers.get("if-none-match")
    if request.scope["query_string"]:
        seconds = min(_seconds(request), services.limits.max_wait_seconds)
        if seconds:
            services.limiter.may_watch(caller)
            with services.limiter.watching(caller):
                await _wait(services, job_id, owner, seconds, known=known)
    texts = cast("JobTexts", request.app.state.job_texts)
    if known is not None or job_id in texts:
        seen = await glance(services.db, job_id, owner=owner)
        if known is not None and matches(known, _etag(seen)):
            return Response(status_code=304, headers=fresh(seen))
        text = texts.get(job_id, seen)
        if text is not None:
            return Response(text, 200, fresh(seen), "application/json")
    job, seen = await look_at(services, job_id, owner)
    made = job.model_dump_json().encode()
    texts.keep(job_id, seen, made)
    return Response(made, 200, fresh(seen), "application/json")


async def job_answer(services: Services, job_id: str, owner: str | None) -> Response:
    """Answer with a job as it is now, and its ETag."""
    job, seen = await look_at(services, job_id, owner)
    return Response(job.model_dump_json(), 200, fresh(seen), "application/json")


async def look_at(services: Services, job_id: str, owner: str | None) -> tuple[wire.Job, Glance]:
    """A job as it is now, and what its ETag is made of."""
    job, seen = await services.db.read(
        lambda session: views.view(session, job_id, owner=owner), hot=True
    )
    return dated(job, services), seen


def dated(job: wire.Job, services: Services) -> wire.Job:
    """The job with the time at which it will be deleted; sooner if room is needed."""
    if job.finished_at is None:
        return job
    kept = services.retention.of(job.status)
    return job.model_copy(update={"expires_at": job.finished_at + kept})


def _seconds(request: Request) -> float:
    text = request.query_params.get("wait", "0")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        detail = f"wait is {text[:64]!r}; it must be a number of seconds from 0 to 60."
        raise InvalidRequest(detail, errors=[FieldError("/wait", detail)])
    return seconds


async def _wait(
    services: Services, job_id: str, owner: str | None, seconds: float, *, known: str | None
) -> None:
    """Return when the status changes, the job ends, or the time is over.

    Args:
        services: The services.
        job_id: The job.
        owner: Whose jobs may be seen.
        seconds: How long to wait at most.
        known: The caller's ETag: where it is out of date already, there is nothing to wait for.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds

    async def look() -> Glance:
        return await glance(services.db, job_id, owner=owner)

    with services.feed.watch(job_id) as watcher:
        first = await look()
        if first.status in TERMINAL or (known is not None and not matches(known, _etag(first))):
            return
        while not services.stopping.is_set() and (left := deadline - loop.time()) > 0:
            await watcher.wait(min(left, _POLL_SECONDS))
            if (await look()).status != first.status:
                return


def _etag(seen: Glance) -> str:
    position = "" if seen.queue_position is None else f".{seen.queue_position}"
    return f'W/"{seen.version}{position}"'


def fresh(seen: Glance) -> dict[str, str]:
    """The headers of a job as it was seen."""
    return {"ETag": _etag(seen), "Cache-Control": "private, no-cache"}
