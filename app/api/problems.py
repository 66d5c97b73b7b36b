"""From errors to problem documents (RFC 9457): the one place that gives an error a status."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from app import errors
from app.errors import FieldError, GatewayError, InvalidRequest

MEDIA_TYPE = "application/problem+json"

STATUS: dict[type[GatewayError], int] = {
    errors.InvalidRequest: 422,
    errors.MalformedBody: 400,
    errors.UnsupportedMedia: 422,
    errors.UnknownWorkflow: 422,
    errors.WorkflowUnavailable: 422,
    errors.NeverFits: 422,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.IdempotencyMismatch: 422,
    errors.IdempotencyInFlight: 409,
    errors.RangeNotSatisfiable: 416,
    errors.PayloadTooLarge: 413,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.RateLimited: 429,
    errors.QueueFull: 503,
    errors.Draining: 503,
    errors.StorageFull: 507,
    errors.StoreUnavailable: 503,
    errors.EngineUnavailable: 503,
    errors.FetchRefused: 422,
}
"""Status of every error. An unknown workflow in a path is 404 all the same: see `workflows.py`."""

HTTP_PROBLEMS: dict[int, tuple[str, str]] = {
    400: ("malformed-body", "The body cannot be read"),
    404: ("not-found", "Not found"),
    405: ("method-not-allowed", "The path does not take this method"),
    408: ("request-timeout", "The request did not arrive in time"),
    413: ("payload-too-large", "Too large"),
    415: ("unsupported-media-type", "The body's media type is not taken here"),
    431: ("headers-too-large", "The head of the request is too large"),
    500: ("internal-error", "The gateway failed"),
}
"""Code and title of what goes wrong in HTTP itself, before any room is asked."""

MALFORMED_REQUEST = ("malformed-request", "The request is not valid HTTP")
"""What is answered, with 400, to bytes in which no request is found."""

_MOST_SHOWN = 80
_MOST_CHARACTERS = 2_000
_MOST_FAULTS = 32
"""A caller who sends a megabyte of nonsense is not sent more of it back."""


def problem(
    status: int,
    code: str,
    title: str,
    detail: str,
    *,
    faults: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
    **extra: Any,  # noqa: ANN401 - problem members are free JSON
) -> Response:
    """Make a problem document."""
    document: dict[str, Any] = {
        "type": f"/problems/{code}",
        "code": code,
        "title": title,
        "status": status,
        "detail": _cut(detail),
    }
    if faults:
        document["errors"] = [
            {"pointer": _cut(fault.pointer), "detail": _cut(fault.detail)}
            for fault in faults[:_MOST_FAULTS]
        ]
    # Text of the caller may hold half a surrogate pair, which UTF-8 cannot: ASCII escapes can.
    body = json.dumps({**document, **extra}).encode()
    return Response(body, status, {"Cache-Control": "no-store", **(headers or {})}, MEDIA_TYPE)


def of_error(error: GatewayError, *, headers: Mapping[str, str] | None = None) -> Response:
    """The problem document of one of the gateway's errors."""
    status = STATUS.get(type(error), 500)
    headers = dict(headers or {})
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if status == 401:
        headers.setdefault("WWW-Authenticate", 'Bearer realm="steadydancer"')
    if status == 413:
        headers["Connection"] = "close"  # what is left of the body is not read
    return problem(
        status,
        error.code,
        error.title,
        error.detail,
        faults=error.errors,
        headers=headers,
        **error.extra,
    )


def of_status(
    status: int, detail: str | None = None, *, headers: Mapping[str, str] | None = None
) -> Response:
    """The problem document of what goes wrong in HTTP itself."""
    code, title = HTTP_PROBLEMS.get(status, ("http-error", "The request cannot be answered"))
    return problem(status, code, title, detail or f"{title}.", headers=headers)


# --- handlers ------------------------------------------------------------------------------------


def install(app: FastAPI) -> None:
    """Have the application answer every error with a problem document."""
    app.add_exception_handler(GatewayError, _on_gateway_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)


async def _on_gateway_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, GatewayError):
        raise error
    return of_error(error)


async def _on_validation_error(_request: Request, error: Exception) -> Response:
    """Of path, query and header parameters: bodies are read by `body.py`."""
    if not isinstance(error, RequestValidationError):
        raise error
    faults = [
        FieldError(pointer(entry["loc"][1:]), _words(entry, _name(entry["loc"])))
        for entry in error.errors()
    ]
    return of_error(InvalidRequest(" ".join(fault.detail for fault in faults), errors=faults))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    detail = error.detail
    if error.status_code == 404:
        detail = f"There is nothing at {request.url.path[:200]!r}; see /docs for what there is."
    headers = error.headers
    if error.status_code == 405:
        allowed = _allowed(request)
        detail = f"{request.method[:20]} is not possible here; this path takes {allowed}."
        headers = {**(headers or {}), "Allow": allowed}
    return of_status(error.status_code, detail, headers=headers)


def _allowed(request: Request) -> str:
    """Every method of a path: a router that stops at the first route names only that one's."""
    routes = request.app.router.routes
    return ", ".join(
        method
        for method in ("GET", "HEAD", "POST", "DELETE")
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes
        )
    )


async def _on_disconnect(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)  # nobody is there to read it


# --- pydantic's errors in our words --------------------------------------------------------------


def pointer(path: Sequence[str | int]) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)


def invalid(error: ValidationError, model: type[BaseModel]) -> InvalidRequest:
    """What pydantic found wrong in a body, in the gateway's words."""
    faults: dict[str, FieldError] = {}
    for entry in error.errors(include_url=False):
        path = [part for part in entry["loc"] if part != "[key]"]
        name = _name(path)[:_MOST_SHOWN]
        if entry["type"] == "extra_forbidden":
            detail = _unknown(name, model if len(path) == 1 else None)
        else:
            detail = _words(entry, name)
        place = pointer(path)
        faults.setdefault(place, FieldError(place, detail))
    found = list(faults.values())
    return InvalidRequest(" ".join(fault.detail for fault in found), errors=found)


def _name(path: Sequence[str | int]) -> str:
    """What people call the place: a member of a list goes by the list's name."""
    return next((part for part in reversed(path) if isinstance(part, str)), "The body")


def _unknown(name: str, model: type[BaseModel] | None) -> str:
    known = list(model.model_fields) if model is not None else []
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f'{name!r} is no field here; did you mean "{close[0]}"?'
    return f"{name!r} is no field here" + (f"; known are {', '.join(known)}." if known else ".")


def _words(entry: ErrorDetails, name: str) -> str:
    if entry["type"] == "missing":
        return f"{name} is missing."
    rule = re.sub(r"^\w+ should ", "it must ", entry["msg"])
    if rule == entry["msg"]:
        rule = rule[:1].lower() + rule[1:]
    return f"{name} is {_shown(entry.get('input'))}; {rule}."


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"


def _shown(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        return "a value that cannot be shown"
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 1]}…"
