"""Reading a submission, as JSON or as a form with the files beside it."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field

from fastapi import Request
from starlette.exceptions import HTTPException

from app import wire
from app.access.scopes import Caller
from app.api.body import media_type, parse_model, read_model
from app.api.meter import UploadMeter
from app.api.multipart import Part, parts_of
from app.api.services import Services
from app.errors import FieldError, InvalidRequest, MalformedBody, PayloadTooLarge, UnsupportedMedia
from app.jobs.inputs import at_field

JOB_PART = "job"


@dataclass(slots=True)
class Sent:
    """What a client sent.

    Attributes:
        job: The request.
        files: Media field to the upload that its file part became.
    """

    job: wire.JobRequest
    files: dict[str, wire.Upload] = field(default_factory=dict)


async def read_submission(request: Request, services: Services, caller: Caller) -> Sent:
    """Read the body of `POST /v1/jobs`.

    Raises:
        GatewayError: It cannot be read, or a file in it cannot be used.
    """
    kind = media_type(request)
    if kind == "multipart/form-data":
        return await _read_form(request, services, caller)
    if kind in {"application/json", ""}:
        limit = services.limits.max_body_bytes
        return Sent(await read_model(request, wire.JobRequest, limit=limit))
    raise HTTPException(
        415,
        "A job is sent as application/json, or as multipart/form-data with the part `job` and "
        "one file part for each media field.",
    )


def form_bytes(services: Services) -> int:
    """The largest form that can be of use: every media field at its largest, and the job."""
    files = max((len(workflow.media) for workflow in services.workflows), default=0)
    return files * services.limits.max_upload_bytes + 2 * services.limits.max_body_bytes


async def _read_form(request: Request, services: Services, caller: Caller) -> Sent:
    """Take files in as they arrive; where the job came first, refuse before they do."""
    job: wire.JobRequest | None = None
    files: dict[str, wire.Upload] = {}
    meter = UploadMeter(
        request,
        limiter=services.limiter,
        caller=caller,
        most_bytes=form_bytes(services),
    )
    async with aclosing(parts_of(request)) as parts:
        async for part in parts:
            if part.name in files or (part.name == JOB_PART and job is not None):
                raise MalformedBody(f"The part {part.name[:64]!r} is there twice.")
            if part.name == JOB_PART:
                job = await _read_job(part, services.limits.max_body_bytes)
                services.submission.check(job)
            else:
                files[part.name] = await _read_file(part, services, caller, job, meter)
    if job is None:
        raise InvalidRequest(
            "The part 'job' is missing: it is the JSON of the request.",
            errors=[FieldError("/job", "job is missing.")],
        )
    return Sent(job, files)


async def _read_job(part: Part, limit: int) -> wire.JobRequest:
    data = bytearray()
    async for piece in part.pieces:
        data += piece
        if len(data) > limit:
            raise PayloadTooLarge(f"The part 'job' is larger than the {limit:,} bytes taken.")
    return parse_model(bytes(data), wire.JobRequest, what="The part 'job'")


async def _read_file(
    part: Part,
    services: Services,
    caller: Caller,
    job: wire.JobRequest | None,
    meter: UploadMeter,
) -> wire.Upload:
    media = services.workflows.get(job.workflow).media if job is not None else None
    known = media or {name: kind for one in services.workflows for name, kind in one.media.items()}
    if part.name not in known:
        detail = f"The part {part.name[:64]!r} is none of job, {', '.join(known)}."
        raise InvalidRequest(detail, errors=[FieldError(f"/{part.name[:64]}", detail)])
    try:
        accepted = await services.intake.upload(
            meter.counted(part.pieces),
            owner=caller.id,
            expect=media[part.name] if media is not None else None,
            filename=part.filename,
        )
    except (UnsupportedMedia, PayloadTooLarge) as error:
        raise at_field(part.name, None, error) from error
    return accepted.view
