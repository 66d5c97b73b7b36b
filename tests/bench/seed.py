"""A store that is full already, written straight into the product's own tables."""

from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlmodel import SQLModel, col, insert

from app.database import Database
from app.jobs.tables import Job, JobEvent, JobLabel
from app.media.store import BlobStore, StoredBlob
from app.media.tables import Artifact, Blob, Chunk
from app.schema import upgrade

ROOT = Path(__file__).resolve().parents[2]
DAYS = 20
"""The jobs came evenly over so many days, the last of them now."""

PROJECTS = 10
"""Each job has the label `project`, one of so many, and `name`, its own."""

_AT_ONCE = 2_000
_VIDEO = b"a video"


def fill(directory: Path, jobs: int, *, queued: int = 0) -> list[str]:
    """Make a store with so many jobs, of which the newest `queued` wait.

    Gives the ids, oldest first. Of the ended ones, 85 % succeeded (with an artifact each, all of
    one content), 10 % failed, 5 % were canceled. A third is of the main workflow.
    """
    database = Database(f"sqlite:///{directory / 'gateway.db'}")
    upgrade(database.engine, ROOT / "migrations")
    now = datetime.now(UTC)
    step = timedelta(days=DAYS) / jobs
    rows = [
        _job(number, now - (jobs - number) * step, queued=number >= jobs - queued)
        for number in range(jobs)
    ]
    with database.engine.begin() as connection:
        connection.execute(sa.text("PRAGMA foreign_keys=OFF"))
        connection.execute(insert(Blob), [_blob(now)])
        connection.execute(insert(Chunk), [{"blob_id": 1, "idx": 0, "data": _VIDEO}])
        for at in range(0, jobs, _AT_ONCE):
            some = rows[at : at + _AT_ONCE]
            _put(connection, Job, some)
            _put(connection, JobLabel, [label for row in some for label in _labels(row)])
            _put(connection, Artifact, [_artifact(row) for row in some if _has_video(row)])
            _put(connection, JobEvent, [_queued_event(row) for row in some])
    database.close()
    return [row["id"] for row in rows]


def store_video(directory: Path, job_id: str, video: Path) -> None:
    """Make a file a seeded job's video, stored by the product's own store."""
    database = Database(f"sqlite:///{directory / 'gateway.db'}")
    database.open()
    blob = asyncio.run(_stored(database, video))
    with database.engine.begin() as connection:
        mine = sa.update(Artifact).where(col(Artifact.job_id) == job_id)
        connection.execute(mine.values(blob_id=blob.id))
    database.close()


async def _stored(database: Database, video: Path) -> StoredBlob:
    return await BlobStore(database, now=lambda: datetime.now(UTC)).put_file(video)


def _put(connection: sa.Connection, table: type[SQLModel], rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(insert(table), rows)


def _job(number: int, at: datetime, *, queued: bool) -> dict[str, Any]:
    text = f"{int(at.timestamp() * 1000):012x}7{number % 4096:03x}8{number:015x}"
    share = number % 20
    ended = "canceled" if share == 0 else "failed" if share < 3 else "succeeded"
    status = "queued" if queued else ended
    error = {"type": "engine-failed", "title": "The engine failed", "detail": "It said so."}
    own = f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:32]}"
    return {
        "id": own,
        "workflow": "smoke" if number % 3 else "steadydancer",
        "status": status,
        "phase": "waiting_for_engine" if queued else None,
        "request": {"prompt": f"dance number {number}", "width": 480, "height": 832, "seed": 7},
        "labels": {"name": f"job {number}", "project": f"p{number % PROJECTS}"},
        "warnings": [],
        "created_at": at,
        "started_at": None if queued else at + timedelta(seconds=1),
        "finished_at": None if queued else at + timedelta(minutes=3),
        "error": {**error, "advice": "", "retryable": False} if status == "failed" else None,
        "video_artifact_id": own if status == "succeeded" else None,
    }


def _has_video(job: dict[str, Any]) -> bool:
    return job["video_artifact_id"] is not None


def _labels(job: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"job_id": job["id"], "key": key, "value": value} for key, value in job["labels"].items()
    ]


def _artifact(job: dict[str, Any]) -> dict[str, Any]:
    media = {"name": "video", "media_type": "video/mp4", "width": 480, "height": 832}
    own = {"id": job["video_artifact_id"], "job_id": job["id"], "blob_id": 1}
    return {**own, **media, "frames": 81, "created_at": job["created_at"]}


def _queued_event(job: dict[str, Any]) -> dict[str, Any]:
    return {"job_id": job["id"], "type": "job.queued", "at": job["created_at"], "data": {}}


def _blob(now: datetime) -> dict[str, Any]:
    digest = hashlib.sha256(_VIDEO).hexdigest()
    size = {"bytes": len(_VIDEO), "chunk_bytes": 1 << 20}
    return {"id": 1, "sha256": digest, **size, "created_at": now, "touched_at": now}
