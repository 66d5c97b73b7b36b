"""Bringing a job's media to the engine: prepared once, uploaded once, named by content."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing

import sqlalchemy as sa
from sqlmodel import Session, col, select

from app.comfy.client import ComfyClient
from app.comfy.messages import OutputFile
from app.database import Database
from app.jobs.tables import JobInput
from app.jobs.together import together
from app.media.prepare import ImagePlan, Plan, Preparer, VideoPlan
from app.media.store import BlobStore
from app.media.tables import Blob, PreparedMedia, Upload
from app.workflows.values import MediaPlan

SUBFOLDER = "gateway"
"""Where the gateway's files lie in ComfyUI's input folder, apart from everybody else's."""


def input_blobs(session: Session, job_id: str) -> dict[str, int]:
    """Media field to the blob that was sent for it."""
    rows = session.exec(
        select(JobInput.field, Upload.blob_id)
        .join(Upload, col(Upload.id) == col(JobInput.upload_id))
        .where(col(JobInput.job_id) == job_id)
    ).all()
    return dict(rows)


_PREPARED_LARGER = (
    sa.select(col(Upload.id), col(PreparedMedia.plan), col(Blob.bytes))
    .join(PreparedMedia, col(PreparedMedia.source_blob_id) == col(Upload.blob_id))
    .join(Blob, col(Blob.id) == col(PreparedMedia.blob_id))
    .where(
        col(Upload.id).in_(sa.bindparam("uploads", expanding=True)),
        col(Blob.bytes) > sa.bindparam("limit"),
    )
)


def oversized(
    session: Session,
    inputs: Mapping[str, str],
    plans: Mapping[str, MediaPlan],
    *,
    limit_bytes: int,
) -> dict[str, int]:
    """Find what would be sent to the engine and is known to be larger than it takes.

    How large a file becomes shows when it is prepared, so this knows those that were before.

    Args:
        session: The open transaction.
        inputs: Media field to upload.
        plans: Media field to what preparation must do.
        limit_bytes: What the engine takes.

    Returns:
        Media field to the bytes of its prepared file.
    """
    asked = {"uploads": list(set(inputs.values())), "limit": limit_bytes}
    found = session.connection().execute(_PREPARED_LARGER, asked).all()
    sizes = {(upload_id, plan): size for upload_id, plan, size in found}
    if not sizes:
        return {}
    wanted = {name: (upload_id, _plan(plans[name]).key) for name, upload_id in inputs.items()}
    return {name: sizes[prepared] for name, prepared in wanted.items() if prepared in sizes}


class Stager:
    """Prepares and uploads."""

    def __init__(self, *, db: Database, store: BlobStore, preparer: Preparer) -> None:
        self._db = db
        self._store = store
        self._preparer = preparer

    async def stage(
        self, job_id: str, plans: Mapping[str, MediaPlan], client: ComfyClient
    ) -> dict[str, str]:
        """Give, for each media field, the name that the graph must use.

        Raises:
            UnsupportedMedia: A file cannot be prepared.
            EngineError: ComfyUI does not take it.
            StorageFull: No room to prepare.
        """
        blobs = await self._db.read(lambda session: input_blobs(session, job_id))
        names = await together(
            *(self._one(blob_id, plans[field], client) for field, blob_id in blobs.items())
        )
        return dict(zip(blobs, names, strict=True))

    async def _one(self, blob_id: int, plan: MediaPlan, client: ComfyClient) -> str:
        prepared = await self._preparer.prepare(blob_id, _plan(plan))
        if await client.exists(OutputFile(prepared.filename, SUBFOLDER, "input")):
            return f"{SUBFOLDER}/{prepared.filename}"
        async with aclosing(self._store.read(prepared.blob.id)) as pieces:
            return await client.upload(
                prepared.filename,
                pieces,
                size_bytes=prepared.blob.size,
                subfolder=SUBFOLDER,
            )


def _plan(plan: MediaPlan) -> Plan:
    if plan.kind == "image":
        return ImagePlan()
    if plan.fps is None:
        raise ValueError("a video is prepared at a rate, and the workflow names none")
    return VideoPlan(
        fps=plan.fps,
        frames=plan.frames,
        start_seconds=plan.start_seconds,
        keep_audio=plan.keep_audio,
    )
