"""What RunPod is answered. Pure.

A dict with `error` marks the job FAILED, and only a text does: an object would leave it COMPLETED
without output. So a failure is a problem document as JSON text.
"""

from __future__ import annotations

import json
from typing import Any

from app import wire
from app.api import problems
from app.errors import FieldError, GatewayError

INPUT = "/input"
"""Where in the body that RunPod takes the request lies."""


def refused(error: GatewayError) -> dict[str, Any]:
    """The answer to a request that was refused, or that the worker cannot run now."""
    error.errors = tuple(
        FieldError(f"{INPUT}{fault.pointer}", fault.detail) for fault in error.errors
    )
    return {"error": bytes(problems.of_error(error).body).decode()}


def failed(error: wire.JobError) -> dict[str, Any]:
    """The answer for a job that ran and failed. No status: it is no answer of HTTP."""
    document = {
        "type": f"/problems/{error.type}",
        "code": error.type,
        **error.model_dump(mode="json", exclude={"type"}, exclude_none=True),
    }
    return {"error": json.dumps(document)}


def succeeded(job: wire.Job, video: wire.Artifact, **how: str) -> dict[str, Any]:
    """The answer for a job that succeeded.

    Args:
        job: The job.
        video: Its video.
        how: `base64` with the bytes, or `url` with a link to them.
    """
    facts = video.model_dump(mode="json", exclude={"name", "url"}, exclude_none=True)
    return {"job": job.model_dump(mode="json"), "video": {**facts, **how}}


def size_inline(job: wire.Job, video: wire.Artifact) -> int:
    """Bytes of the whole answer if the video lies in it."""
    around = json.dumps(succeeded(job, video, base64=""), ensure_ascii=False).encode()
    return len(around) + (video.bytes + 2) // 3 * 4


def progress(job: wire.Job) -> dict[str, Any]:
    """What is told while a job runs."""
    return {
        "phase": job.phase,
        "reason": job.reason,
        **job.progress.model_dump(mode="json", exclude={"eta_seconds"}),
    }
