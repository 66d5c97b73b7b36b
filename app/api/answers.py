"""What endpoints declare: the errors they can give, for OpenAPI, and how JSON is answered."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel

from app import errors, wire
from app.api.conditional import matches
from app.api.problems import HTTP_PROBLEMS, MEDIA_TYPE, STATUS
from app.errors import GatewayError

Kind = type[GatewayError] | int

CALLER: tuple[Kind, ...] = (
    errors.Unauthorized,
    errors.Forbidden,
    errors.RateLimited,
    errors.StoreUnavailable,
)
"""What every call with a key can be refused with."""

SUBMIT: tuple[Kind, ...] = (
    errors.InvalidRequest,
    errors.UnknownWorkflow,
    errors.WorkflowUnavailable,
    errors.UnsupportedMedia,
    errors.NeverFits,
    errors.FetchRefused,
    errors.IdempotencyMismatch,
    errors.IdempotencyInFlight,
    errors.MalformedBody,
    errors.PayloadTooLarge,
    errors.QueueFull,
    errors.StorageFull,
    408,
    415,
)
"""What a submission can be refused with."""

BODY: tuple[Kind, ...] = (
    errors.InvalidRequest,
    errors.MalformedBody,
    errors.PayloadTooLarge,
    408,
    415,
)
"""What a call with a JSON body can be refused with."""


def binary(*media_types: str) -> dict[int | str, dict[str, Any]]:
    """What a call that gives a stored file answers with."""
    files: dict[str, Any] = {
        kind: {"schema": {"type": "string", "format": "binary"}} for kind in media_types
    }
    return {
        200: {
            "description": "The whole file.",
            "content": files,
            "headers": {
                "ETag": {"schema": {"type": "string"}, "description": "Strong: the SHA-256."},
                "Accept-Ranges": {"schema": {"type": "string"}},
            },
        },
        206: {
            "description": "The asked range. Several ranges in one call give the whole file.",
            "content": dict(files),
        },
        304: {"description": "The caller has it already, as its If-None-Match says."},
        307: {
            "description": "The file, or the range of it, is at `Location` for a quarter of an "
            "hour. Only where the operator chose so for media in object storage.",
            "headers": {"Location": {"schema": {"type": "string", "format": "uri"}}},
        },
    }


def refusals(*kinds: Kind) -> dict[int | str, dict[str, Any]]:
    """The error answers of an operation, with an example of each code."""
    found: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        if isinstance(kind, int):
            status, (code, title) = kind, HTTP_PROBLEMS[kind]
        else:
            status, code, title = STATUS[kind], kind.code, kind.title
        answer = found.setdefault(
            status,
            {
                "description": "",
                "model": wire.Problem,
                "content": {MEDIA_TYPE: {"examples": {}}},
            },
        )
        answer["description"] += ("; " if answer["description"] else "") + title
        answer["content"][MEDIA_TYPE]["examples"][code] = {
            "value": {
                "type": f"/problems/{code}",
                "code": code,
                "title": title,
                "status": status,
                "detail": "What happened this time, and what would work.",
            }
        }
    return found


def json_answer(
    model: BaseModel, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Answer with a wire model, serialized once and not validated again."""
    return Response(
        model.model_dump_json(),
        status,
        {"Cache-Control": "no-store", **(headers or {})},
        "application/json",
    )


def tagged_answer(request: Request, model: BaseModel) -> Response:
    """Answer with a wire model and a weak ETag of its text; with 304 where the caller has it."""
    text = model.model_dump_json()
    tag = f'W/"{hashlib.sha256(text.encode()).hexdigest()[:24]}"'
    headers = {"Cache-Control": "private, no-cache", "ETag": tag}
    if matches(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    return Response(text, 200, headers, "application/json")


def json_body(schema: str, **examples: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAPI of a JSON body that the endpoint reads itself."""
    return {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": f"#/components/schemas/{schema}"},
                "examples": {name: {"value": value} for name, value in examples.items()},
            }
        },
    }
