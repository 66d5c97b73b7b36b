"""The event log of a job as server-sent events, live and resumable."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse
from sqlmodel import Session

from app import errors, wire
from app.access import scopes
from app.access.scopes import Caller, seen_owner
from app.api.answers import CALLER, refusals
from app.api.deps import JobId, Reader, TheDoorman, TheServices
from app.api.doorman import Doorman
from app.api.services import Services
from app.errors import Forbidden, RateLimited, Unauthorized
from app.jobs import views
from app.jobs.feed import Preview
from app.jobs.states import TERMINAL
from app.jobs.tables import Job

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["events"])

_AT_ONCE = 500
_RETRY_MILLISECONDS = 2_000
_LOOK_SECONDS = 5.0
"""A quiet stream looks at least this often whether its caller may still read."""

_EXAMPLE = (
    "retry: 2000\n\nid: 7\nevent: job.progress\n"
    'data: {"id":7,"job_id":"019ab0c2-7d4e-7c11-9f3a-2b6d5e8f1a40","type":"job.progress",'
    '"at":"2026-01-01T00:00:00Z","data":{"fraction":0.5,"step":2,"steps":4}}\n\n'
)

_ITEM = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "id": {"type": "string", "description": "Absent for previews."},
        "event": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
"""As OpenAPI 3.2 describes streams; 3.1 tools pass over it."""


@router.get(
    "/events",
    operation_id="stream_events",
    summary="Follow a job",
    response_class=Response,
    responses={
        200: {
            "description": "The stored events with their ids, then what happens. A `preview` "
            "event without id holds the latest picture; a comment keeps the connection alive. The "
            "stream ends with the job.",
            "content": {"text/event-stream": {"itemSchema": _ITEM, "example": _EXAMPLE}},
        },
        204: {"description": "The job has ended, and Last-Event-ID names its last event."},
        **refusals(*CALLER, errors.NotFound, errors.InvalidRequest),
    },
)
async def stream_events(
    request: Request,
    caller: Reader,
    job_id: JobId,
    services: TheServices,
    doorman: TheDoorman,
    last_event_id: Annotated[
        str | None,
        Header(
            alias="Last-Event-ID",
            pattern=r"^[0-9]{1,18}$",
            description="The stream goes on after this event, without a gap.",
            examples=["7"],
        ),
    ] = None,
) -> Response:
    """Send the events of a job, from the first or from the one that was seen last.

    The stream ends, too, when the key that asked for it is revoked.
    """
    services.limiter.may_watch(caller)
    after = int(last_event_id or 0)
    owner = seen_owner(caller)
    rows, ended = await services.db.read(lambda session: _read(session, job_id, owner, after))
    if ended and not rows and after:
        # EventSource reconnects for ever, unless it is told 204.
        return Response(status_code=204)
    return StreamingResponse(
        _stream(services, caller, job_id, after, partial(_may_read, doorman, request)),
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        media_type="text/event-stream",
    )


async def _may_read(doorman: Doorman, request: Request) -> bool:
    try:
        scopes.require(await doorman.caller(request), scopes.Scope.READ)
    except (Unauthorized, Forbidden):
        return False
    return True


def _read(
    session: Session, job_id: str, owner: str | None, after: int
) -> tuple[Sequence[wire.Event], bool]:
    ended = views.load(session, job_id, owner=owner).status in TERMINAL
    return views.events(session, job_id, after=after, limit=_AT_ONCE), ended


def _read_on(session: Session, *, job_id: str, after: int) -> tuple[Sequence[wire.Event], bool]:
    """The same for a job that may be deleted meanwhile, which ends it too."""
    job = session.get(Job, job_id)
    ended = job is None or job.status in TERMINAL
    return views.events(session, job_id, after=after, limit=_AT_ONCE), ended


async def _stream(
    services: Services,
    caller: Caller,
    job_id: str,
    after: int,
    may_read: Callable[[], Awaitable[bool]],
) -> AsyncGenerator[bytes]:
    yield f"retry: {_RETRY_MILLISECONDS}\n\n".encode()
    pictures, silent = 0, 0.0
    heartbeat = services.limits.heartbeat_seconds
    try:
        services.limiter.may_watch(caller)  # again: many may have been let in at the same moment
    except RateLimited:
        return
    pause = min(heartbeat, _LOOK_SECONDS)
    with services.limiter.watching(caller), services.feed.watch(job_id) as watcher:
        while await may_read():
            rows, ended = await services.db.read(partial(_read_on, job_id=job_id, after=after))
            for row in rows:
                after = row.id
                yield f"id: {row.id}\nevent: {row.type}\ndata: {row.model_dump_json()}\n\n".encode()
            if len(rows) == _AT_ONCE:
                continue
            preview = services.feed.preview(job_id)
            if preview is not None and preview.number != pictures and not ended:
                pictures = preview.number
                yield _picture(preview)
            if ended or services.stopping.is_set():
                return
            if await watcher.wait(pause):
                silent = 0.0
            elif (silent := silent + pause) >= heartbeat:
                silent = 0.0
                yield b": still here\n\n"


def _picture(preview: Preview) -> bytes:
    data = {
        "job_id": preview.job_id,
        "number": preview.number,
        "media_type": preview.media_type,
        "base64": base64.b64encode(preview.data).decode("ascii"),
    }
    return f"event: preview\ndata: {json.dumps(data)}\n\n".encode()
