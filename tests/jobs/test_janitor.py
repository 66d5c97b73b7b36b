"""What the clock must do: deadlines, retention, and the room that both give back."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlmodel import Session, col, select

from app.comfy.files import EngineFiles
from app.database import Database
from app.jobs import queue
from app.jobs.feed import Feed
from app.jobs.janitor import Janitor, Retention, oldest_finished
from app.jobs.queue import NewArtifact, Usage
from app.jobs.states import TERMINAL, Caps, Loss, Status
from app.jobs.supply import waiting_jobs
from app.jobs.tables import Attempt, Job
from app.media.limits import MediaLimits
from app.media.prepare import Preparer
from app.media.sandbox import Sandbox
from app.media.store import BlobStore
from app.media.tables import Blob
from tests.conftest import Clock
from tests.jobs.test_moves import NOTE, new_job

pytestmark = pytest.mark.both_databases


class House:
    """A store with a janitor in it."""

    def __init__(self, db: Database, clock: Clock, directory: Path, **changes: object) -> None:
        self.db, self.clock = db, clock
        self.ticks = 0.0
        self.store = BlobStore(db, now=clock)
        self.engine = directory / "comfyui"
        values: dict[str, object] = {
            "keep": timedelta(days=1),
            "keep_bytes": 10**12,
            "min_free_bytes": 0,
            "uploads": timedelta(hours=1),
            "idempotency": timedelta(days=1),
            "grace": timedelta(hours=1),
            **changes,
        }
        self.janitor = Janitor(
            db=db,
            store=self.store,
            preparer=Preparer(
                db=db,
                store=self.store,
                sandbox=Sandbox(limits=MediaLimits()),
                spool=directory,
                now=clock,
            ),
            feed=Feed(),
            retention=Retention(**values),  # type: ignore[arg-type]
            engine_files=[EngineFiles(self.engine, corner="gateway")],
            now=clock,
            monotonic=lambda: self.ticks,
        )

    async def finished(self, size: int = 1_000) -> str:
        """A job that succeeded with a video of its own."""

        async def pieces() -> AsyncIterator[bytes]:
            yield uuid4().bytes * (size // 16)

        blob = await self.store.put(pieces())

        def make(session: Session) -> str:
            job_id = queue.submit(session, new_job(), now=self.clock()).job_id
            attempt_id = str(uuid4())
            fence = queue.claim(
                session, job_id, engine="0", attempt_id=attempt_id, now=self.clock()
            )
            assert fence is not None
            video = NewArtifact("video", blob.id, "video/mp4")
            queue.succeed(session, fence, artifacts=[video], usage=Usage(), now=self.clock())
            return job_id

        return await self.db.write(make)

    async def queued(self, **changes: object) -> str:
        return await self.db.write(
            lambda s: queue.submit(s, new_job(**changes), now=self.clock()).job_id
        )

    async def jobs(self) -> dict[str, str]:
        return await self.db.read(lambda s: dict(s.exec(select(Job.id, Job.status)).all()))

    async def blobs(self) -> int:
        return len(await self.db.read(lambda s: s.exec(select(Blob.id)).all()))


@pytest.fixture
def house(db: Database, clock: Clock, tmp_path: Path) -> House:
    return House(db, clock, tmp_path)


async def test_an_empty_store_is_swept_without_complaint(house: House) -> None:
    await house.janitor.sweep()
    assert await house.jobs() == {}


async def test_a_job_that_waits_past_its_deadline_fails_and_others_do_not(house: House) -> None:
    late = await house.queued(max_queue_seconds=10)
    patient = await house.queued(max_queue_seconds=100)
    house.clock.advance(11)
    assert await house.janitor.expire() == 1
    assert await house.jobs() == {late: Status.FAILED, patient: Status.QUEUED}


async def test_a_clock_that_is_set_lets_no_job_expire(house: House) -> None:
    waiting = await house.queued(max_queue_seconds=100)
    assert await house.janitor.expire() == 0
    house.clock.advance(86_400)
    house.ticks += 1
    assert await house.janitor.expire() == 0, "the clock was set; the job has waited one second"
    assert await house.jobs() == {waiting: Status.QUEUED}
    for _ in range(3):
        house.clock.advance(50)
        house.ticks += 50
        await house.janitor.expire()
    assert await house.jobs() == {waiting: Status.FAILED}


async def test_a_clock_that_is_set_deletes_nothing_and_keeps_nobody_waiting(house: House) -> None:
    kept = await house.finished()

    def lose(session: Session) -> str:
        job_id = queue.submit(session, new_job(), now=house.clock()).job_id
        fence = queue.claim(session, job_id, engine="0", attempt_id=str(uuid4()), now=house.clock())
        assert fence is not None
        soon = house.clock() + timedelta(seconds=2)
        queue.lose(
            session,
            fence,
            Loss.NOT_STARTED,
            NOTE,
            caps=Caps(),
            not_before=soon,
            now=house.clock(),
        )
        return job_id

    lost = await house.db.write(lose)
    for seconds in (-10 * 86_400, 30 * 86_400):
        await house.janitor.expire()
        house.clock.advance(seconds)
        await house.janitor.expire()
        await house.janitor.sweep()
        assert await house.jobs() == {kept: Status.SUCCEEDED, lost: Status.QUEUED}
        soon = house.clock() + timedelta(seconds=3)
        offered = await house.db.read(lambda s: waiting_jobs(s, now=soon, limit=9))  # noqa: B023
        assert [job.job_id for job in offered] == [lost], "it waits for a time that is days away"
    for _ in range(2):
        house.clock.advance(86_400)
        house.ticks += 86_400
        await house.janitor.expire()
    await house.janitor.sweep()
    assert await house.jobs() == {lost: Status.QUEUED}, "the old job is kept for ever"


async def test_old_jobs_go_with_their_bytes_and_unfinished_ones_never(house: House) -> None:
    old, waiting = await house.finished(), await house.queued()
    house.clock.advance(2 * 86_400)
    young = await house.finished()
    assert await house.blobs() == 2
    await house.janitor.sweep()
    assert set(await house.jobs()) == {waiting, young}
    assert old not in await house.jobs()
    assert await house.blobs() == 1


async def test_each_status_is_kept_as_long_as_it_says(
    db: Database, clock: Clock, tmp_path: Path
) -> None:
    kept = {"failed": timedelta(days=3), "canceled": timedelta(hours=1)}
    house = House(db, clock, tmp_path, keep_by_status=kept)
    succeeded, waiting, canceled = (
        await house.finished(),
        await house.queued(),
        await house.queued(),
    )
    failed = await house.queued(max_queue_seconds=0)
    await house.db.write(lambda s: queue.cancel(s, canceled, now=clock()))
    await house.janitor.expire()
    await house.janitor.sweep()
    assert set(await house.jobs()) == {succeeded, failed, waiting, canceled}
    for hours, gone in ((2, canceled), (24, succeeded), (48, failed)):
        clock.advance(hours * 3600)
        assert gone in await house.jobs()
        await house.janitor.sweep()
        assert gone not in await house.jobs()
    assert set(await house.jobs()) == {waiting}


@pytest.mark.sqlite_only
async def test_the_oldest_finished_are_found_in_an_index(db: Database, clock: Clock) -> None:
    asked: list[tuple[str, tuple[object, ...]]] = []

    def look(session: Session) -> list[list[str]]:
        connection = session.connection()
        sa.event.listen(connection, "before_cursor_execute", lambda *call: asked.append(call[2:4]))
        oldest_finished(session, before={str(status): clock() for status in TERMINAL})
        return [
            [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values)]
            for text, values in tuple(asked)
        ]

    plans = await db.read(look)
    assert len(plans) == len(TERMINAL)
    for plan in plans:
        assert len(plan) == 1, "it is sorted"
        assert "INDEX ix_job_ended (status=? AND finished_at" in plan[0]


@pytest.mark.sqlite_only
async def test_the_oldest_go_first_when_there_are_too_many_bytes(
    db: Database, clock: Clock, tmp_path: Path
) -> None:
    house = House(db, clock, tmp_path, keep_bytes=55_000_000)
    made = []
    for _ in range(60):
        made.append(await house.finished(size=1_000_000))
        clock.advance(1)
    clock.advance(7_200)
    assert db.path is not None
    before = db.path.stat().st_size
    await house.janitor.sweep()
    left = set(await house.jobs())
    assert left == set(made[50:]), "they go in batches of fifty, the oldest first"
    for _ in range(20):
        await db.reclaim()
    await db.write(lambda session: None)
    db.close()
    with sqlite3.connect(db.path) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    raw.close()
    assert db.path.stat().st_size < before / 2, "the room was not given back"


async def test_files_of_ended_attempts_leave_the_engine_and_those_of_open_ones_stay(
    house: House,
) -> None:
    output = house.engine / "output" / "gateway"
    output.mkdir(parents=True)
    (house.engine / "temp").mkdir()
    (house.engine / "temp" / "gateway").touch()  # no folder: that is ComfyUI's own trouble

    def claim(session: Session) -> list[str]:
        ids = []
        for end in (True, False):
            job_id = queue.submit(session, new_job(), now=house.clock()).job_id
            fence = queue.claim(
                session, job_id, engine="0", attempt_id=str(uuid4()), now=house.clock()
            )
            assert fence is not None
            ids.append(fence.attempt_id)
            if end:
                queue.fail(session, fence, NOTE, now=house.clock())
        return ids

    ended, running = await house.db.write(claim)
    for attempt in (ended, running):
        (output / f"{attempt}_00001.mp4").touch()
        (output / f"{attempt}_00001.png").touch()
    (output / "somebody-elses.mp4").touch()
    await house.janitor.sweep()
    left = {path.name for path in output.iterdir()}
    assert left == {f"{running}_00001.mp4", f"{running}_00001.png", "somebody-elses.mp4"}
    open_ = await house.db.read(
        lambda s: s.exec(select(Attempt.id).where(col(Attempt.finished_at).is_(None))).all()
    )
    assert list(open_) == [running]
    shutil.rmtree(house.engine)
