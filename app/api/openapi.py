"""The OpenAPI document: what FastAPI finds, and what it cannot know."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from app import wire
from app.api.models import NewKey

_OPEN = frozenset({"get_health", "get_readiness", "close_session"})
"""Operations that need no key."""

_READ_BY_HAND = (wire.JobRequest, wire.RerunRequest, wire.EstimateRequest, NewKey)
"""Bodies that the endpoints read themselves, so FastAPI does not see them."""

_OF_A_JOB = ("get_job", "cancel_job", "rerun_job", "delete_job", "list_attempts", "get_video")


def _links(parameter: str, at: str, *operations: str) -> dict[str, Any]:
    """Where to go from an answer, with an id out of it."""
    return {
        operation: {
            "operationId": operation,
            "parameters": {parameter: f"$response.body#/{at}"},
        }
        for operation in operations
    }


_LINKS: dict[str, tuple[str, dict[str, Any]]] = {
    "submit_job": ("202", _links("job_id", "id", *_OF_A_JOB, "stream_events")),
    "rerun_job": ("202", _links("job_id", "id", *_OF_A_JOB)),
    "create_upload": ("201", _links("upload_id", "id", "get_upload", "get_upload_content")),
    "list_workflows": (
        "200",
        _links("name", "workflows/0/name", "get_workflow", "estimate_request"),
    ),
    "create_key": ("201", _links("key_id", "id", "revoke_key")),
}
"""Operation to the status whose answer leads on, and where to."""

_DESCRIPTION = """\
Video jobs on a GPU: a photo and a dance video in, an mp4 of the person dancing out.

Send a job with `POST /v1/jobs`, wait for it with `GET /v1/jobs/{id}?wait=30` or follow
`GET /v1/jobs/{id}/events`, and fetch `GET /v1/jobs/{id}/video`.

Times are RFC 3339 in UTC, durations `_seconds`, sizes `_bytes`, memory `_mib`. Every error is an
`application/problem+json` document whose `type` leads to its explanation.
"""

_TAGS = {
    "jobs": "Submit jobs, look at them, cancel them.",
    "artifacts": "What jobs made.",
    "events": "What happens, as it happens.",
    "uploads": "Media that requests refer to.",
    "workflows": "What can be asked for.",
    "webhooks": "Messages to your server, signed as Standard Webhooks prescribe.",
    "system": "The GPU, the engine, the queue, the store.",
    "access": "Keys and sessions.",
    "health": "For machines that watch.",
}


def document(app: FastAPI) -> dict[str, Any]:
    """Make the OpenAPI document of the application."""
    made = get_openapi(
        title=app.title,
        version=app.version,
        summary="A queue with a memory in front of ComfyUI.",
        description=_DESCRIPTION,
        routes=app.routes,
        tags=[{"name": name, "description": text} for name, text in _TAGS.items()],
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    components = made.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    _, found = models_json_schema(
        [(model, "validation") for model in _READ_BY_HAND],
        ref_template="#/components/schemas/{model}",
    )
    schemas.update(found.get("$defs", {}))
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    components["securitySchemes"] = {
        "key": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key. A gateway on loopback without keys needs none.",
        },
        "session": {
            "type": "apiKey",
            "in": "cookie",
            "name": "steadydancer_session",
            "description": "The dashboard's session; see `POST /v1/session`.",
        },
    }
    paths = made["paths"]
    made["paths"] = {"/v1/jobs": paths.pop("/v1/jobs"), **paths}  # what people come for goes first
    for operations in made["paths"].values():
        for operation in operations.values():
            _finish(operation)
    return made


def _finish(operation: dict[str, Any]) -> None:
    """Say who may call, and in which media type errors come."""
    if operation["operationId"] not in _OPEN:
        operation["security"] = [{"key": []}, {"session": []}]
    if operation["operationId"] in _LINKS:
        status, links = _LINKS[operation["operationId"]]
        operation["responses"][status]["links"] = links
    for answer in operation["responses"].values():
        content = answer.get("content", {})
        problem = content.get("application/problem+json")
        plain = content.get("application/json", {})
        if problem is not None and "examples" in problem:
            problem["schema"] = {"$ref": "#/components/schemas/Problem"}
            if plain.get("schema", {}).get("$ref", "").endswith("/Problem"):
                del content["application/json"]
    if "HTTPValidationError" in str(operation["responses"].get("422", "")):
        del operation["responses"]["422"]
