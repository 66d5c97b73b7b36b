"""What must be done by the clock: deadlines, retention, and the room that both give back."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
import structlog
from sqlmodel import Session, col, select

from app.access import sessions
from app.comfy.files import EngineFiles
from app.database import Database
from app.errors import StorageFull, StoreUnavailable
from app.jobs import queue
from app.jobs.feed import Feed
from app.jobs.queue import FailureNote
from app.jobs.states import TERMINAL, Status
from app.jobs.tables import Attempt, Job, JobInput
from app.media.prepare import Preparer
from app.media.retention import sweep_uploads
from app.media.store import BlobStore
from app.media.tables import Artifact, Blob, PreparedMedia, Upload
from app.webhooks import deliveries, secrets

log = structlog.get_logger(__name__)

_CLOCK_JUMP = timedelta(seconds=60)
"""A difference between the wall's clock and the monotonic one that no tick explains."""

_CLOCK_REST_SECONDS = 86_400.0
"""After the clock was set nothing goes by age for so long: nobody knows which time is wrong, and
what is deleted does not come back."""

_AT_ONCE = 50
"""Jobs that one transaction ends or deletes, so that no sweep holds the one writer for long."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long what is kept.

    Attributes:
        keep: Finished jobs, after their end; and the log of webhook deliveries.
        keep_by_status: The same for jobs that ended so, where it differs.
        keep_bytes: Media bytes in all; beyond that the oldest finished jobs go.
        min_free_bytes: Free disk that is always left; below it the oldest finished jobs go.
        uploads: Uploads that no job uses.
        idempotency: Replay window of a key.
        grace: How long bytes may lie unreferenced: longer than any step from storing to linking.
    """

    keep: timedelta
    keep_bytes: int
    min_free_bytes: int
    uploads: timedelta
    idempotency: timedelta
    grace: timedelta = timedelta(hours=1)
    keep_by_status: Mapping[str, timedelta] = field(default_factory=dict)

    def of(self, status: str) -> timedelta:
        """How long a job that ended with a status is kept."""
        return self.keep_by_status.get(status, self.keep)


def overdue(session: Session, *, now: datetime) -> Sequence[str]:
    """Give queued jobs whose deadline has passed."""
    return session.exec(
        select(Job.id)
        .where(col(Job.status) == Status.QUEUED, col(Job.queue_deadline) <= now)
        .limit(_AT_ONCE)
    ).all()


def oldest_finished(
    session: Session, *, before: Mapping[str, datetime] | None = None
) -> Sequence[str]:
    """Give finished jobs, the oldest end first; never an unfinished one.

    Args:
        session: The open transaction.
        before: Only those that ended before this time, by status; None for all.
    """
    found: list[tuple[datetime | None, str]] = []
    for status in sorted(TERMINAL):  # each is a range of the index
        query = select(Job.finished_at, Job.id).where(col(Job.status) == status)
        if before is not None:
            query = query.where(col(Job.finished_at) < before[status])
        found += session.exec(query.order_by(col(Job.finished_at)).limit(_AT_ONCE))
    return [job_id for _, job_id in sorted(found)[:_AT_ONCE]]


@dataclass(frozen=True, slots=True)
class Kept:
    """Bytes of the media that something refers to.

    Attributes:
        total: All of them.
        in_objects: Those of them that lie in object storage.
    """

    total: int
    in_objects: int


def kept_bytes(session: Session) -> Kept:
    """Give the bytes of all media that something refers to."""
    needed = [
        sa.exists().where(column == col(Blob.id))
        for column in (
            col(Artifact.blob_id),
            col(Upload.blob_id),
            col(PreparedMedia.blob_id),
        )
    ]
    is_object = col(Blob.object_key).is_not(None)
    sums = sa.select(
        sa.func.coalesce(sa.func.sum(col(Blob.bytes)), 0),
        sa.func.coalesce(sa.func.sum(sa.case((is_object, col(Blob.bytes)), else_=0)), 0),
    ).where(sa.or_(*needed))
    total, in_objects = session.execute(sums).one()
    return Kept(int(total), int(in_objects))


def open_attempts(session: Session) -> set[str]:
    """Give the ids of the attempts that have not ended."""
    return set(session.exec(select(Attempt.id).where(col(Attempt.finished_at).is_(None))).all())


def free_bytes(directory: Path) -> int:
    """Give the free bytes of the disk that holds a directory."""
    return shutil.disk_usage(directory).free


class Janitor:
    """Ends what is overdue and deletes what is too old."""

    def __init__(
        self,
        *,
        db: Database,
        store: BlobStore,
        preparer: Preparer,
        feed: Feed,
        retention: Retention,
        engine_files: Sequence[EngineFiles] = (),
        now: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
        seconds: float = 1.0,
        sweep_seconds: float = 60.0,
    ) -> None:
        self._db = db
        self._store = store
        self._preparer = preparer
        self._feed = feed
        self._retention = retention
        self._engine_files = engine_files
        self._now = now
        self._monotonic = monotonic
        self._seen_at: tuple[datetime, float] | None = None
        self._trusted_from = float("-inf")
        self._seconds = seconds
        self._sweep_seconds = sweep_seconds

    async def run(self) -> None:
        """Work for as long as the gateway runs."""
        loop = asyncio.get_running_loop()
        swept_at = loop.time()
        while True:
            try:
                await self.expire()
                if loop.time() - swept_at >= self._sweep_seconds:
                    await self.sweep()
                    swept_at = loop.time()
            except (StorageFull, StoreUnavailable) as error:
                log.warning("janitor cannot work", reason=error.detail)
            await asyncio.sleep(self._seconds)

    async def expire(self) -> int:
        """Fail the queued jobs whose deadline has passed, and say how many."""
        now = self._now()
        await self._mind_the_clock(now)
        ids = await self._db.read(lambda session: overdue(session, now=now))
        note = FailureNote("deadline-exceeded", queue.WAITED_TOO_LONG)

        def end(session: Session) -> list[str]:
            return [job_id for job_id in ids if queue.expire(session, job_id, note, now=now)]

        ended = await self._db.write(end) if ids else []
        for job_id in ended:
            self._feed.publish(job_id)
        return len(ended)

    async def _mind_the_clock(self, now: datetime) -> None:
        """Let no job expire because somebody set the clock: a wait is as long as it lasted."""
        ticked = self._monotonic()
        before, self._seen_at = self._seen_at, (now, ticked)
        if before is None:
            return
        jump = (now - before[0]) - timedelta(seconds=ticked - before[1])
        if abs(jump) < _CLOCK_JUMP:
            return
        self._trusted_from = ticked + _CLOCK_REST_SECONDS
        moved = await self._db.write(lambda session: queue.shift_deadlines(session, jump))
        log.warning(
            "the clock was set; nothing is deleted by age for a day",
            by_seconds=jump.total_seconds(),
            deadlines_moved=moved,
        )

    async def sweep(self) -> None:
        """Delete what retention no longer keeps, and give the room back."""
        now = self._now()
        if self._monotonic() >= self._trusted_from:
            before = {str(status): now - self._retention.of(status) for status in TERMINAL}
            while await self._delete_oldest(before=before):
                continue
            await self._forget(now)
        await self._give_back()
        await self._make_room()
        await self.sweep_engines()

    async def run_engines(self) -> None:
        """Sweep the engines' folders only, where another machine's janitor does the rest."""
        while True:
            await asyncio.sleep(self._sweep_seconds)
            try:
                await self.sweep_engines()
            except (StorageFull, StoreUnavailable) as error:
                log.warning("janitor cannot work", reason=error.detail)

    async def sweep_engines(self) -> None:
        """Delete what ended attempts left in the folders of this machine's engines."""
        now = self._now()
        for files in self._engine_files:
            await self._sweep_engine(files, now)

    async def _sweep_engine(self, files: EngineFiles, now: datetime) -> None:
        """Delete what ended attempts left in the engine's folders."""
        found = await asyncio.to_thread(files.attempts)
        busy = await self._db.read(open_attempts)
        removed = await asyncio.to_thread(files.remove_outputs, found - busy)
        if not busy:
            before = (now - self._retention.uploads).timestamp()
            removed += await asyncio.to_thread(lambda: files.remove_inputs(before=before))
        if removed:
            log.info("engine files deleted", files=removed)

    async def _make_room(self) -> None:
        """Delete the oldest jobs while more is kept than there is room for.

        A disk that stays full although jobs went is full of somebody else's bytes: then no more go.
        """
        free_before = -1
        while True:
            kept = await self._db.read(kept_bytes)
            too_many = kept.total > self._retention.keep_bytes
            free = await self._free()
            if not too_many and (
                free >= self._retention.min_free_bytes
                or free <= free_before
                or 0 < kept.total == kept.in_objects  # nothing of them lies on this disk
            ):
                return
            free_before = free
            if not await self._delete_oldest():
                return
            await self._give_back()

    async def _free(self) -> int:
        path = self._db.path
        if path is None:
            return self._retention.min_free_bytes
        return await asyncio.to_thread(free_bytes, path.parent)

    async def _delete_oldest(self, *, before: Mapping[str, datetime] | None = None) -> int:
        ids = await self._db.read(lambda session: oldest_finished(session, before=before))

        def delete(session: Session) -> int:
            return sum(queue.delete(session, job_id) for job_id in ids)

        deleted = await self._db.write(delete, durable=False) if ids else 0
        if deleted:
            log.info("finished jobs deleted", jobs=deleted)
        return deleted

    async def _forget(self, now: datetime) -> None:
        ttl = self._retention.uploads
        in_use = sa.select(col(JobInput.upload_id))

        def forget(session: Session) -> None:
            sweep_uploads(session, now=now, ttl=ttl, in_use=in_use)
            queue.forget_idempotency(session, before=now - self._retention.idempotency)
            sessions.sweep(session, now=now)
            secrets.sweep(session, now=now)
            deliveries.sweep(session, before=now - self._retention.keep)

        await self._db.write(forget, durable=False)
        await self._preparer.sweep(ttl=ttl)

    async def _give_back(self) -> None:
        await self._store.sweep(grace=self._retention.grace)
        while await self._db.reclaim():
            continue
