"""The media of a request: taken in from wherever it says they are."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from app import wire
from app.access.limits import Limiter
from app.access.scopes import Caller, Scope
from app.errors import (
    FetchRefused,
    FieldError,
    GatewayError,
    InvalidRequest,
    MalformedBody,
    NotFound,
    PayloadTooLarge,
    UnsupportedMedia,
)
from app.media.intake import Intake, MediaKind
from app.media.sniff import WOULD_WORK
from app.media.tables import Upload
from app.workflows.workflow import Workflow

_MOST_SEEN = 1024

_USED = (
    sa.update(Upload)
    .where(col(Upload.id).in_(sa.bindparam("wanted", expanding=True)))
    .values(last_used_at=sa.bindparam("now"))
)

_REFUSALS = (NotFound, MalformedBody, UnsupportedMedia, PayloadTooLarge, FetchRefused)


class JobInputs:
    """Turns the media fields of requests into uploads; refusals point to the field."""

    def __init__(self, *, intake: Intake, limiter: Limiter) -> None:
        self._intake = intake
        self._limiter = limiter
        self._seen: dict[tuple[str, str | None, bool], wire.Upload] = {}

    async def take(
        self,
        workflow: Workflow,
        request: Mapping[str, Any],
        *,
        caller: Caller,
        attached: Mapping[str, wire.Upload],
    ) -> dict[str, wire.Upload]:
        """Have every media file of a request stored.

        Args:
            workflow: The workflow of the request.
            request: The request as sent.
            caller: Who asks.
            attached: Media field to the upload that came as a file beside the request.

        Raises:
            InvalidRequest: No such upload is visible to the caller, or the text is not base64.
            UnsupportedMedia, PayloadTooLarge, FetchRefused: A file cannot be used or got.
        """
        refs: dict[str, wire.MediaRef] = dict(workflow.media_refs(request, attached=attached))
        refs |= {name: wire.UploadRef(upload_id=upload.id) for name, upload in attached.items()}
        taken: dict[str, wire.Upload] = {}
        for name, ref in refs.items():
            try:
                taken[name] = await self._one(ref, caller, workflow.media[name])
            except _REFUSALS as error:
                raise at_field(name, ref, error) from error
        return taken

    async def _one(self, ref: wire.MediaRef, caller: Caller, expect: MediaKind) -> wire.Upload:
        if isinstance(ref, wire.UploadRef):
            found = await self._known(ref.upload_id, caller)
            if found.kind != expect:
                raise UnsupportedMedia(
                    f"The upload is of the kind {found.kind}, and {expect} is wanted. "
                    f"{WOULD_WORK[expect]}"
                )
            return found
        accepted = await self._intake.accept(ref, owner=caller.id, expect=expect)
        if isinstance(ref, wire.UrlRef):
            self._limiter.upload(caller, accepted.view.bytes)
        return accepted.view

    async def _known(self, upload_id: str, caller: Caller) -> wire.Upload:
        """An upload. One that was seen is not asked for again: it never changes.

        Whether it is still there shows when the job is stored.
        """
        any_owner = caller.has(Scope.ADMIN)
        mine = (upload_id, caller.id, any_owner)
        found = self._seen.get(mine)
        if found is None:
            found = (await self._intake.get(upload_id, owner=caller.id, any_owner=any_owner)).view
            self._seen[mine] = found
            if len(self._seen) > _MOST_SEEN:
                del self._seen[next(iter(self._seen))]
        return found

    async def look(
        self, workflow: Workflow, request: Mapping[str, Any], *, caller: Caller
    ) -> dict[str, wire.Upload]:
        """What is known of those media that are uploads already. Stores and fetches nothing.

        Raises:
            InvalidRequest: A media field has no known form, or names an upload that is not there.
        """
        absent = [name for name in workflow.media if request.get(name) is None]
        found: dict[str, wire.Upload] = {}
        for name, ref in workflow.media_refs(request, attached=absent).items():
            if not isinstance(ref, wire.UploadRef):
                continue
            try:
                upload = await self._intake.get(
                    ref.upload_id, owner=caller.id, any_owner=caller.has(Scope.ADMIN)
                )
            except NotFound as error:
                raise at_field(name, ref, error) from error
            found[name] = upload.view
        return found


def use_uploads(session: Session, inputs: Mapping[str, str], *, now: datetime) -> None:
    """Note that uploads are used now: none of them is swept before the job refers to it.

    Args:
        session: The write transaction that stores the job.
        inputs: Media field to upload.
        now: The time.

    Raises:
        InvalidRequest: An upload went after it was looked at.
    """
    wanted = list(set(inputs.values()))
    used = session.connection().execute(_USED, {"wanted": wanted, "now": now})
    if used.rowcount == len(wanted):
        return
    left = session.exec(select(Upload.id).where(col(Upload.id).in_(wanted))).all()
    detail = "This upload expired just now; send the file again."
    faults = [
        FieldError(f"/request/{name}", detail)
        for name, upload_id in inputs.items()
        if upload_id not in left
    ]
    raise InvalidRequest(f"{faults[0].pointer}: {detail}", errors=faults)


def at_field(field: str, ref: wire.MediaRef | None, error: GatewayError) -> GatewayError:
    """The same refusal of a media file, with the pointer of its field."""
    form = next(iter(ref.model_dump()), None) if ref is not None else None
    if isinstance(error, NotFound | MalformedBody):
        pointer = f"/request/{field}/{form}" if form else f"/request/{field}"
        detail = f"{field}: {error.detail}"
        return InvalidRequest(detail, errors=[FieldError(pointer, error.detail)])
    fault = FieldError(f"/request/{field}", error.detail)
    return type(error)(f"{field}: {error.detail}", errors=[fault], retry_after=error.retry_after)
