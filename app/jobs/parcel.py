"""What travels between the gateway and an endpoint: the request with its media, and the video."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import datetime
from pathlib import Path

import anyio
from sqlmodel import Session, col, select

from app.database import Database
from app.endpoint import run_body
from app.jobs.collect import OutputUnusable, Write
from app.jobs.heard import Video
from app.jobs.stager import input_blobs
from app.jobs.tables import Job
from app.jobs.task import Task
from app.media.files import storing
from app.media.intake import decode_base64
from app.media.store import BlobStore
from app.workflows.workflow import Workflow

START_SECONDS = 900.0
"""What a worker may take beside the run: ComfyUI's start, the media, the upload."""

_FETCH_SECONDS = 600.0

Fetch = Callable[..., AsyncGenerator[bytes]]


async def pack(
    task: Task,
    workflow: Workflow,
    *,
    db: Database,
    store: BlobStore,
    max_run_seconds: float,
    now: datetime,
) -> bytes:
    """The body of `/run` for an attempt: the resolved request, its media as base64.

    The endpoint forgets the job when it could neither have started in time nor be running still.
    """
    job_id = task.fence.job_id
    run_seconds = task.max_run_seconds or max_run_seconds
    blobs, waits = await db.read(
        lambda session: (input_blobs(session, job_id), _queue_seconds(session, job_id, now))
    )
    request = workflow.merge(task.request, {})
    for field, blob_id in blobs.items():
        data = b"".join([piece async for piece in store.read(blob_id)])
        request[field] = {"base64": base64.b64encode(data).decode()}
    given = {"workflow": task.workflow, "request": request, "max_run_seconds": run_seconds}
    longest = run_seconds + START_SECONDS
    return run_body(given, run_seconds=longest, ttl_seconds=longest + waits)


def unpack(video: Video, *, fetch: Fetch, limit_bytes: int) -> Write:
    """A function that puts the video where it is told and checks that it came whole.

    It raises `OutputUnusable` or `MalformedBody` for a video that is not what was made,
    `FetchRefused` where the link gives nothing, and `StorageFull`.
    """

    async def write(path: Path) -> None:
        if video.base64 is not None:
            pieces = decode_base64(video.base64, max_bytes=limit_bytes)
        elif video.url is not None:
            pieces = fetch(video.url, limit_bytes=limit_bytes, timeout_seconds=_FETCH_SECONDS)
        else:
            raise OutputUnusable("The endpoint's answer has neither the video nor a link.")
        digest = hashlib.sha256()
        with storing():
            async with await anyio.open_file(path, "xb") as target, aclosing(pieces):
                async for piece in pieces:
                    digest.update(piece)
                    await target.write(piece)
        if digest.hexdigest() != video.sha256:
            raise OutputUnusable("The video is not the one that the endpoint made.")

    return write


def _queue_seconds(session: Session, job_id: str, now: datetime) -> float:
    """How long the job may still wait."""
    deadline = session.exec(select(Job.queue_deadline).where(col(Job.id) == job_id)).one()
    return max(0.0, (deadline - now).total_seconds()) if deadline is not None else 86_400.0
