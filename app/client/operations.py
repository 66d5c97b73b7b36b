"""What the client can do, written once for both clients: each operation is a script of calls."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from pydantic import BaseModel, JsonValue

from app import wire
from app.client.calls import Call, Form, OnBytes, Retry, Script, perform, send
from app.client.errors import InvalidArgument, WaitTimedOut

M = TypeVar("M", bound=BaseModel)
FilePath = str | PathLike[str]

_SUBMIT_SECONDS = 300.0
"""A submission is answered after its media were probed, which may take a while for long ones."""

_HOLD_SECONDS = 30.0
"""How long one call waits at the gateway. Under what proxies on the way usually allow."""


def submit(
    job: wire.JobRequest,
    retry: Retry,
    *,
    files: Mapping[str, FilePath],
    idempotency_key: str | None,
    on_bytes: OnBytes | None,
) -> Script[wire.Job]:
    """`POST /v1/jobs`, as a form where there are files."""
    headers = {"Idempotency-Key": idempotency_key or str(uuid4())}
    # Only what was given: the gateway's defaults stay its own.
    body = job.model_dump(mode="json", exclude_unset=True)
    if not files:
        call = Call(
            method="POST", path="/v1/jobs", headers=headers, body=body, seconds=_SUBMIT_SECONDS
        )
    else:
        text = job.model_dump_json(exclude_unset=True)
        paths = {name: Path(path) for name, path in files.items()}
        call = Call(
            method="POST",
            path="/v1/jobs",
            headers=headers,
            form=Form({"job": text}, paths, on_bytes),
            seconds=_SUBMIT_SECONDS,
        )
    return (yield from _model(call, retry, wire.Job))


def upload(path: FilePath, retry: Retry, *, on_bytes: OnBytes | None) -> Script[wire.Upload]:
    """`POST /v1/uploads`."""
    form = Form({}, {"file": Path(path)}, on_bytes)
    call = Call(method="POST", path="/v1/uploads", form=form, seconds=_SUBMIT_SECONDS)
    return (yield from _model(call, retry, wire.Upload))


def get(job_id: str, retry: Retry) -> Script[wire.Job]:
    """`GET /v1/jobs/{id}`."""
    call = Call(method="GET", path=job_path(job_id))
    return (yield from _model(call, retry, wire.Job))


def wait(job_id: str, retry: Retry, *, seconds: float | None) -> Script[wire.Job]:
    """Long polls until the job has ended.

    Raises:
        WaitTimedOut: It had not after so many seconds.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    etag: str | None = None
    call = Call(method="GET", path=job_path(job_id))
    while True:
        reply = yield from perform(call, retry)
        if reply.status != 304:
            job = wire.Job.model_validate_json(reply.body)
            if job.status in wire.TERMINAL_STATUSES:
                return job
            etag = reply.headers.get("etag")
        left = _HOLD_SECONDS if deadline is None else deadline - time.monotonic()
        if left <= 0:
            raise WaitTimedOut(f"The job {job_id} had not ended after {seconds:g} seconds.")
        hold = min(left, _HOLD_SECONDS)
        call = Call(
            method="GET",
            path=job_path(job_id),
            params=(("wait", f"{hold:.3f}"),),
            headers={"If-None-Match": etag} if etag else {},
            seconds=hold + 15,
        )


def page(
    retry: Retry, filters: Sequence[tuple[str, str]], cursor: str | None
) -> Script[wire.JobPage]:
    """`GET /v1/jobs`: one page."""
    params = (*filters, *((("cursor", cursor),) if cursor else ()))
    call = Call(method="GET", path="/v1/jobs", params=params)
    return (yield from _model(call, retry, wire.JobPage))


def filters_of(
    *,
    status: Sequence[wire.JobStatus],
    workflow: str | None,
    created_after: datetime | None,
    created_before: datetime | None,
    metadata: Mapping[str, str],
    order: str,
    page_size: int,
) -> tuple[tuple[str, str], ...]:
    """The query of a listing."""
    found: list[tuple[str, str]] = [("status", one) for one in status]
    if workflow is not None:
        found.append(("workflow", workflow))
    found += [
        (name, at.astimezone().isoformat())
        for name, at in (("created_after", created_after), ("created_before", created_before))
        if at is not None
    ]
    found += [(f"metadata.{key}", value) for key, value in metadata.items()]
    if order != "newest":
        found.append(("order", order))
    return (*found, ("limit", str(page_size)))


def cancel(job_id: str, retry: Retry) -> Script[wire.Job]:
    """`POST /v1/jobs/{id}/cancel`."""
    call = Call(method="POST", path=f"{job_path(job_id)}/cancel")
    return (yield from _model(call, retry, wire.Job))


def rerun(
    job_id: str,
    retry: Retry,
    *,
    overrides: Mapping[str, JsonValue],
    idempotency_key: str | None,
) -> Script[wire.Job]:
    """`POST /v1/jobs/{id}/rerun`."""
    call = Call(
        method="POST",
        path=f"{job_path(job_id)}/rerun",
        headers={"Idempotency-Key": idempotency_key or str(uuid4())},
        body={"overrides": dict(overrides)},
        seconds=_SUBMIT_SECONDS,
    )
    return (yield from _model(call, retry, wire.Job))


def delete(job_id: str, retry: Retry) -> Script[None]:
    """`DELETE /v1/jobs/{id}`."""
    yield from perform(Call(method="DELETE", path=job_path(job_id)), retry)


def document(job_id: str, name: str, retry: Retry) -> Script[dict[str, Any]]:
    """`GET /v1/jobs/{id}/artifacts/{name}` of an artifact that is JSON."""
    call = Call(method="GET", path=artifact_path(job_id, name))
    reply = yield from perform(call, retry)
    return dict(reply.json())


def workflows(retry: Retry) -> Script[tuple[wire.WorkflowView, ...]]:
    """`GET /v1/workflows`."""
    call = Call(method="GET", path="/v1/workflows")
    return (yield from _model(call, retry, wire.WorkflowList)).workflows


def workflow(name: str, retry: Retry) -> Script[wire.WorkflowView]:
    """`GET /v1/workflows/{name}`."""
    call = Call(method="GET", path=f"/v1/workflows/{_segment(name)}")
    return (yield from _model(call, retry, wire.WorkflowView))


def estimate(name: str, request: Mapping[str, JsonValue], retry: Retry) -> Script[wire.Estimate]:
    """`POST /v1/workflows/{name}/estimate`."""
    call = Call(
        method="POST",
        path=f"/v1/workflows/{_segment(name)}/estimate",
        body={"request": dict(request)},
    )
    return (yield from _model(call, retry, wire.Estimate))


def system(retry: Retry) -> Script[wire.System]:
    """`GET /v1/system`."""
    return (yield from _model(Call(method="GET", path="/v1/system"), retry, wire.System))


def set_draining(retry: Retry, *, draining: bool) -> Script[wire.System]:
    """`POST /v1/system/drain` and `/resume`."""
    path = f"/v1/system/{'drain' if draining else 'resume'}"
    return (yield from _model(Call(method="POST", path=path), retry, wire.System))


def ready() -> Script[wire.Readiness]:
    """`GET /readyz`; not to be ready is an answer, not an error."""
    reply = yield from send(Call(method="GET", path="/readyz", seconds=10))
    return wire.Readiness.model_validate_json(reply.body)


# --- shared --------------------------------------------------------------------------------------


def job_path(job_id: str) -> str:
    """Path of a job."""
    return f"/v1/jobs/{_segment(job_id)}"


def artifact_path(job_id: str, name: str) -> str:
    """Path of one of a job's artifacts."""
    return f"{job_path(job_id)}/artifacts/{_segment(name)}"


def _segment(text: str) -> str:
    """A text as one segment of a path.

    Raises:
        InvalidArgument: It is none: it would name another path.
    """
    if not text or text in {".", ".."} or not text.isascii() or set(text) & set("/?#%\\ "):
        raise InvalidArgument(f"{text[:64]!r} is no id or name.")
    return text


def _model(call: Call, retry: Retry, model: type[M]) -> Script[M]:
    reply = yield from perform(call, retry)
    return model.model_validate_json(reply.body)
