"""What endpoints ask for by type: the services, and a caller who may do the thing."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, cast

from fastapi import Depends, Header, Path, Request
from pydantic import BeforeValidator

from app.access.scopes import Caller, Scope, require
from app.api.doorman import Doorman
from app.api.examples import JOB_ID, UPLOAD_ID
from app.api.services import Services
from app.errors import NotFound

_RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


async def _services(request: Request) -> Services:
    return cast("Services", request.app.state.services)


async def _doorman(request: Request) -> Doorman:
    return cast("Doorman", request.app.state.doorman)


class _May:
    """Lets a caller with a scope pass, and counts the call against the key's rate."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def __call__(self, request: Request) -> Caller:
        caller = await cast("Doorman", request.app.state.doorman).caller(request)
        cast("Services", request.app.state.services).limiter.request(caller)
        require(caller, self._scope)
        return caller


def uuid_of(text: str, what: str) -> str:
    """The text, if it is an id of ours.

    Raises:
        NotFound: Nothing can have it.
    """
    if _UUID.fullmatch(text) is None:
        raise NotFound(f"There is no {what} {text[:64]!r}: its id is a UUID in lower case.")
    return text


async def _job_id(
    job_id: Annotated[str, Path(description="Id of the job.", examples=[JOB_ID])],
) -> str:
    return uuid_of(job_id, "job")


async def _upload_id(
    upload_id: Annotated[str, Path(description="Id of the upload.", examples=[UPLOAD_ID])],
) -> str:
    return uuid_of(upload_id, "upload")


may_read = _May(Scope.READ)

TheServices = Annotated[Services, Depends(_services)]
TheDoorman = Annotated[Doorman, Depends(_doorman)]
Submitter = Annotated[Caller, Depends(_May(Scope.SUBMIT))]
Reader = Annotated[Caller, Depends(may_read)]
Admin = Annotated[Caller, Depends(_May(Scope.ADMIN))]
JobId = Annotated[str, Depends(_job_id)]
UploadId = Annotated[str, Depends(_upload_id)]


def _moment(text: object) -> object:
    if isinstance(text, str) and _RFC_3339.fullmatch(text) is None:
        raise ValueError("it must be a time as in RFC 3339, such as 2026-01-01T12:00:00Z")
    return text


Moment = Annotated[datetime, BeforeValidator(_moment)]
"""A time as the gateway itself writes it; pydantic alone would also take `0.5` for one."""

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Your name for this request. Sent again within a day with the same body, it "
        "gives the same answer; with another body it is refused.",
        examples=["order-1729"],
    ),
]
