"""Uploads: media files that requests can refer to."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response

from app import errors, wire
from app.access.scopes import Caller, Scope
from app.api.answers import CALLER, binary, json_answer, refusals
from app.api.body import media_type
from app.api.deps import Reader, Submitter, TheServices, UploadId
from app.api.meter import UploadMeter
from app.api.multipart import parts_of
from app.api.services import Services
from app.api.streaming import stored_answer
from app.errors import FieldError, InvalidRequest, MalformedBody

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])

FILE_PART = "file"

_MEDIA_TYPES = (
    "image/png",
    "image/jpeg",
    "image/webp",
    "video/mp4",
    "video/webm",
    "video/quicktime",
    "video/x-matroska",
)


@router.post(
    "",
    operation_id="create_upload",
    summary="Upload a media file",
    status_code=201,
    response_model=wire.Upload,
    responses=refusals(
        *CALLER,
        errors.MalformedBody,
        errors.InvalidRequest,
        errors.UnsupportedMedia,
        errors.PayloadTooLarge,
        errors.StorageFull,
        408,
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["file"],
                        "additionalProperties": False,
                        "properties": {"file": {"type": "string", "format": "binary"}},
                    }
                },
            },
        }
    },
)
async def create_upload(
    request: Request,
    services: TheServices,
    caller: Submitter,
    filename: Annotated[
        str | None,
        Header(alias="X-Filename", max_length=255, description="A label for people."),
    ] = None,
) -> Response:
    """Take a media file in, as the bare body or as the part `file` of a form.

    It is judged by its content, whatever its name or type says. The same content is stored once,
    and sent again it is the same upload. An upload that no job uses is forgotten after a day.
    """
    limit = services.limits.max_upload_bytes
    meter = UploadMeter(
        request,
        limiter=services.limiter,
        caller=caller,
        most_bytes=limit + services.limits.max_body_bytes,
    )
    if media_type(request) == "multipart/form-data":
        upload = await _from_form(request, services, caller, meter)
    else:
        accepted = await services.intake.upload(
            meter.counted(request.stream()), owner=caller.id, filename=filename
        )
        upload = accepted.view
    return json_answer(upload, status=201, headers={"Location": f"/v1/uploads/{upload.id}"})


async def _from_form(
    request: Request, services: Services, caller: Caller, meter: UploadMeter
) -> wire.Upload:
    upload: wire.Upload | None = None
    async with aclosing(parts_of(request)) as parts:
        async for part in parts:
            if part.name != FILE_PART:
                detail = f"The part {part.name[:64]!r} is not known; there is one part, 'file'."
                raise InvalidRequest(detail, errors=[FieldError(f"/{part.name[:64]}", detail)])
            if upload is not None:
                raise MalformedBody("The part 'file' is there twice; send one file a call.")
            accepted = await services.intake.upload(
                meter.counted(part.pieces), owner=caller.id, filename=part.filename
            )
            upload = accepted.view
    if upload is None:
        raise InvalidRequest(
            "The part 'file' is missing.", errors=[FieldError("/file", "file is missing.")]
        )
    return upload


@router.get(
    "/{upload_id}",
    operation_id="get_upload",
    summary="Look at an upload",
    response_model=wire.Upload,
    responses=refusals(*CALLER, errors.NotFound),
)
async def get_upload(caller: Reader, upload_id: UploadId, services: TheServices) -> Response:
    """Say what probing found in an upload."""
    accepted = await services.intake.get(
        upload_id, owner=caller.id, any_owner=caller.has(Scope.ADMIN)
    )
    return json_answer(accepted.view)


@router.get(
    "/{upload_id}/content",
    operation_id="get_upload_content",
    summary="Download an upload",
    response_class=Response,
    responses={
        **binary(*_MEDIA_TYPES),
        **refusals(*CALLER, errors.NotFound, errors.RangeNotSatisfiable),
    },
)
@router.head("/{upload_id}/content", include_in_schema=False)
async def get_upload_content(
    request: Request,
    caller: Reader,
    upload_id: UploadId,
    services: TheServices,
    _range: Annotated[str | None, Header(alias="Range", examples=["bytes=0-1023"])] = None,
) -> Response:
    """Give the file as it was sent, or one range of it."""
    accepted = await services.intake.get(
        upload_id, owner=caller.id, any_owner=caller.has(Scope.ADMIN)
    )
    return await stored_answer(
        request,
        services.store,
        redirect=services.redirect_media,
        blob_id=accepted.blob_id,
        size=accepted.view.bytes,
        sha256=accepted.view.sha256,
        media_type=accepted.view.media_type,
        disposition="inline",
    )
