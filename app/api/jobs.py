"""Jobs: submit, list, cancel, rerun, delete. Looking at one is in `polling.py`."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from sqlmodel import Session

from app import errors, wire
from app.access.scopes import Caller, seen_owner
from app.api.answers import CALLER, SUBMIT, json_body, refusals, tagged_answer
from app.api.body import read_model
from app.api.deps import IdempotencyKey, JobId, Moment, Reader, Submitter, TheServices
from app.api.examples import JOB_REQUEST, RERUN
from app.api.polling import dated, fresh, job_answer, look_at
from app.api.services import Services
from app.api.submissions import read_submission
from app.errors import Conflict, FieldError, InvalidRequest
from app.jobs import pages, queue, views
from app.jobs.glance import glance
from app.jobs.pages import Filter, Order
from app.jobs.queue import Submitted
from app.jobs.states import Status

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_CANCEL_SECONDS = 2.0
"""How long a cancel waits for a running job to end, so that its answer says how it ended."""

_QUERY = frozenset(
    {
        *("status", "workflow", "batch_id", "created_after", "created_before"),
        *("order", "limit", "cursor"),
    }
)


@router.post(
    "",
    operation_id="submit_job",
    summary="Submit a job",
    status_code=202,
    response_model=wire.Job,
    responses=refusals(*CALLER, *SUBMIT),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                **json_body("JobRequest", **JOB_REQUEST)["content"],
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["job"],
                        "properties": {"job": {"$ref": "#/components/schemas/JobRequest"}},
                        "propertyNames": {"pattern": "^[a-z0-9_]{1,64}$"},
                        "additionalProperties": {
                            "type": "string",
                            "format": "binary",
                            "description": "A file, in a part named after its media field.",
                        },
                    }
                },
            },
        }
    },
)
async def submit_job(
    request: Request,
    services: TheServices,
    caller: Submitter,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Check a request, store it, and answer with its job.

    Once this is answered with 202 the job is stored for good: it will run, or say why not. Media
    come as uploads, as URLs, as base64, or as file parts of a form beside the part `job`; sent
    first, the part `job` is checked before any file is read.
    """
    sent = await read_submission(request, services, caller)
    submitted = await services.submission.submit(
        sent.job,
        caller=caller,
        attached=sent.files,
        key=idempotency_key,
        trace=request.state.trace.headers(),
    )
    return await _accepted(services, caller, submitted)


@router.get(
    "",
    operation_id="list_jobs",
    summary="List jobs",
    response_model=wire.JobPage,
    responses=refusals(*CALLER, errors.InvalidRequest),
)
async def list_jobs(
    *,
    request: Request,
    services: TheServices,
    caller: Reader,
    status: Annotated[
        list[wire.JobStatus] | None, Query(description="Only these; can be repeated.")
    ] = None,
    workflow: Annotated[str | None, Query(max_length=64)] = None,
    batch_id: Annotated[str | None, Query(max_length=64)] = None,
    created_after: Annotated[Moment | None, Query(description="At this time or later.")] = None,
    created_before: Annotated[Moment | None, Query(description="Before this time.")] = None,
    order: Annotated[
        Order,
        Query(
            description="`queue`: only what waits, the one that is to start next first; not "
            "together with another `status` than `queued`."
        ),
    ] = "newest",
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[
        str | None, Query(max_length=256, description="`next_cursor` of the page before.")
    ] = None,
) -> Response:
    """Give the caller's jobs; with the scope `admin`, everybody's.

    `metadata.KEY=VALUE` limits the list to jobs with that label, and can be given for several.
    """
    labels = _labels(request)
    if order == "queue" and set(status or ()) - {Status.QUEUED.value}:
        detail = "the order `queue` lists what waits: leave `status` out, or ask for `queued`."
        raise InvalidRequest(
            f"With {detail}", errors=[FieldError("/order", f"'queue' was sent; {detail}")]
        )
    which = Filter(
        owner=seen_owner(caller),
        status=tuple(dict.fromkeys(status or ())),
        workflow=workflow,
        batch_id=batch_id,
        created_after=created_after,
        created_before=created_before,
        labels=labels,
    )
    jobs, next_cursor = await services.db.read(
        lambda session: pages.page(session, which, limit=limit, cursor=cursor, order=order)
    )
    shown = tuple(dated(job, services) for job in jobs)
    return tagged_answer(request, wire.JobPage(jobs=shown, next_cursor=next_cursor))


@router.post(
    "/{job_id}/cancel",
    operation_id="cancel_job",
    summary="Cancel a job",
    response_model=wire.Job,
    responses=refusals(*CALLER, errors.NotFound),
)
async def cancel_job(caller: Submitter, job_id: JobId, services: TheServices) -> Response:
    """Cancel a queued job at once, and have a running one stopped.

    The answer is the job: `canceled`, or how it ended first, or still `running` with
    `cancel_requested` where the engine takes longer than two seconds. To cancel again changes
    nothing.
    """
    owner = seen_owner(caller)

    def cancel(session: Session) -> bool:
        views.load(session, job_id, owner=owner)
        return queue.cancel(session, job_id, now=services.now())

    with services.feed.watch(job_id) as watcher:
        changed = await services.db.write(cancel)
        services.stations.cancel(job_id)
        if services.overflow is not None:
            services.overflow.cancel(job_id)
        if changed:
            services.feed.publish(job_id)
        deadline = asyncio.get_running_loop().time() + _CANCEL_SECONDS
        while (left := deadline - asyncio.get_running_loop().time()) > 0:
            seen = await glance(services.db, job_id, owner=owner)
            if seen.status != Status.RUNNING or services.stopping.is_set():
                break
            await watcher.wait(min(left, 0.5))
    services.stations.wake()
    return await job_answer(services, job_id, owner)


@router.post(
    "/{job_id}/rerun",
    operation_id="rerun_job",
    summary="Run a job again",
    status_code=202,
    response_model=wire.Job,
    responses=refusals(*CALLER, *SUBMIT, errors.NotFound),
    openapi_extra={"requestBody": {**json_body("RerunRequest", **RERUN), "required": False}},
)
async def rerun_job(
    caller: Submitter,
    job_id: JobId,
    request: Request,
    services: TheServices,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Make a new job from the resolved request of an earlier one.

    With the same seed and settings it makes the same video. `overrides` changes fields; a field
    set to null goes back to its default, which for the seed is a new one.
    """
    asked = await read_model(
        request, wire.RerunRequest, limit=services.limits.max_body_bytes, optional=True
    )
    submitted = await services.submission.rerun(
        job_id, asked, caller=caller, key=idempotency_key, trace=request.state.trace.headers()
    )
    return await _accepted(services, caller, submitted)


@router.delete(
    "/{job_id}",
    operation_id="delete_job",
    summary="Delete a finished job",
    status_code=204,
    response_class=Response,
    responses=refusals(*CALLER, errors.NotFound, errors.Conflict),
)
async def delete_job(caller: Submitter, job_id: JobId, services: TheServices) -> Response:
    """Remove a finished job with its artifacts and events. Uploads go when nothing uses them."""
    owner = seen_owner(caller)

    def delete(session: Session) -> None:
        job = views.load(session, job_id, owner=owner)
        if not queue.delete(session, job_id):
            raise Conflict(
                f"The job is {job.status}; only a finished job can be deleted. Cancel it first."
            )

    await services.db.write(delete)
    services.feed.publish(job_id)
    return Response(status_code=204)


# --- shared --------------------------------------------------------------------------------------


async def _accepted(services: Services, caller: Caller, submitted: Submitted) -> Response:
    job, seen = await look_at(services, submitted.job_id, seen_owner(caller))
    headers = fresh(seen) | {"Location": job.links.self}
    if submitted.replayed:
        headers["Idempotent-Replayed"] = "true"
    else:
        services.metrics.submitted.labels(job.workflow).inc()
    return Response(job.model_dump_json(), 202, headers, "application/json")


def _labels(request: Request) -> dict[str, str]:
    """The `metadata.KEY` parameters. A parameter that nobody knows is more likely a slip."""
    labels: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        head, dot, key = name.partition(".")
        if head == "metadata" and dot and key and key not in labels and "\x00" not in name + value:
            labels[key] = value
        elif name not in _QUERY:
            known = ", ".join(sorted(_QUERY))
            detail = (
                f"{name[:64]!r} is no parameter of this list, or stands there twice; there are "
                f"{known} and metadata.KEY."
            )
            place = name[:64].replace("~", "~0").replace("/", "~1")
            raise InvalidRequest(detail, errors=[FieldError(f"/{place}", detail)])
    if len(labels) > wire.MOST_LABELS:
        detail = f"A job has at most {wire.MOST_LABELS} labels; {len(labels):,} were asked for."
        raise InvalidRequest(detail, errors=[FieldError("/metadata", detail)])
    return labels
