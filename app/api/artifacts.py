"""What a job made: the video, its poster, the graph that ran, the request."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Header, Path, Query, Request, Response
from sqlmodel import Session

from app import errors
from app.access.scopes import seen_owner
from app.api.answers import CALLER, binary, refusals
from app.api.deps import JobId, Reader, TheServices
from app.api.services import Services
from app.api.streaming import document_answer, stored_answer
from app.errors import NotFound
from app.jobs import views
from app.jobs.tables import Job
from app.media.tables import Artifact, Blob

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["artifacts"])

_SUFFIX = {"video/mp4": ".mp4", "image/jpeg": ".jpg", "image/webp": ".webp", "image/png": ".png"}
_NAME_CHARACTERS = 80

Download = Annotated[bool, Query(description="Offer the file for saving instead of showing it.")]
_REFUSED = (errors.NotFound, errors.RangeNotSatisfiable, errors.InvalidRequest)


@router.get(
    "/video",
    operation_id="get_video",
    summary="Download the video",
    response_class=Response,
    responses={**binary("video/mp4"), **refusals(*CALLER, *_REFUSED)},
)
@router.head("/video", include_in_schema=False)
async def get_video(
    *,
    caller: Reader,
    request: Request,
    job_id: JobId,
    services: TheServices,
    download: Download = False,
    _range: Annotated[str | None, Header(alias="Range", examples=["bytes=0-1023"])] = None,
) -> Response:
    """Give the mp4, or one range of it. The index comes first, so that it plays while it loads."""
    return await _stored(request, services, job_id, "video", seen_owner(caller), download=download)


@router.get(
    "/artifacts/{name}",
    operation_id="get_artifact",
    summary="Download an artifact",
    response_class=Response,
    responses={
        **binary("application/json", "image/jpeg", "image/webp", "video/mp4"),
        **refusals(*CALLER, *_REFUSED),
    },
)
@router.head("/artifacts/{name}", include_in_schema=False)
async def get_artifact(
    *,
    caller: Reader,
    request: Request,
    job_id: JobId,
    services: TheServices,
    name: Annotated[
        str,
        Path(
            description="`video`, `poster`, `pose` where one was made, `graph` (the ComfyUI graph "
            "of the last attempt) or `request` (with every default filled in).",
            examples=["poster"],
        ),
    ],
    download: Download = False,
    _range: Annotated[str | None, Header(alias="Range", examples=["bytes=0-1023"])] = None,
) -> Response:
    """Give any artifact of a job."""
    owner = seen_owner(caller)
    if name in {"graph", "request"}:
        document, title = await services.db.read(
            lambda session: _document(session, job_id, name, owner)
        )
        disposition = _disposition(f"{title or job_id}-{name}.json", download=download)
        return document_answer(request, document, disposition=disposition)
    return await _stored(request, services, job_id, name, owner, download=download)


def _document(
    session: Session, job_id: str, name: str, owner: str | None
) -> tuple[dict[str, Any], str]:
    job = views.load(session, job_id, owner=owner)
    title = _title(job)
    if name == "request":
        return views.view(session, job_id, owner=owner)[0].request, title
    attempt = views.last_attempt(session, job.id)
    if attempt is None or attempt.graph is None:
        raise NotFound("The job has no graph yet: none of its attempts was submitted.")
    return attempt.graph, title


def _title(job: Job) -> str:
    """What the caller named the job, with the label `name`; empty where it did not."""
    return str(job.labels.get("name", ""))


def _find(
    session: Session, job_id: str, name: str, owner: str | None
) -> tuple[Artifact, Blob, str]:
    title = _title(views.load(session, job_id, owner=owner))
    artifact, blob = views.artifact(session, job_id, name, owner=owner)
    return artifact, blob, title


async def _stored(
    request: Request,
    services: Services,
    job_id: str,
    name: str,
    owner: str | None,
    *,
    download: bool,
) -> Response:
    artifact, blob, title = await services.db.read(
        lambda session: _find(session, job_id, name, owner)
    )
    suffix = _SUFFIX.get(artifact.media_type, "")
    stem = title or job_id
    filename = f"{stem}{suffix}" if name == "video" else f"{stem}-{name}{suffix}"
    return await stored_answer(
        request,
        services.store,
        redirect=services.redirect_media and not download,
        blob_id=artifact.blob_id,
        size=blob.bytes,
        sha256=blob.sha256,
        media_type=artifact.media_type,
        disposition=_disposition(filename, download=download),
    )


def _disposition(filename: str, *, download: bool) -> str:
    """A Content-Disposition that no file name can break out of (RFC 6266, RFC 8187)."""
    stem, dot, suffix = filename.rpartition(".")
    kept = "".join(char for char in (stem or suffix) if char.isprintable() and char not in '/\\"')
    kept = kept.strip(" .")[:_NAME_CHARACTERS] or "video"
    whole = f"{kept}{dot}{suffix}" if stem else kept
    plain = "".join(char if char.isascii() and char not in ";%" else "_" for char in whole)
    kind = "attachment" if download else "inline"
    extended = f"; filename*=UTF-8''{quote(whole, safe='')}" if plain != whole else ""
    return f'{kind}; filename="{plain}"{extended}'
