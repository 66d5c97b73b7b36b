"""Which queued jobs are offered to an engine, and in what order."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from sqlmodel import Session

from app.database import Database
from app.jobs import queue
from app.jobs.states import Caps, Loss, Status
from app.jobs.supply import waiting_jobs
from app.jobs.tables import Job
from tests.jobs.test_moves import NOTE, new_job

pytestmark = pytest.mark.both_databases

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def submit(session: Session, **changes: object) -> str:
    return queue.submit(session, new_job(**changes), now=NOW).job_id


async def test_priority_comes_before_age(db: Database) -> None:
    def fill(session: Session) -> list[str]:
        low, first, second, high = (
            submit(session, priority=priority) for priority in (-1, 0, 0, 1)
        )
        return [high, first, second, low]

    expected = await db.write(fill)
    found = await db.read(lambda s: [job.job_id for job in waiting_jobs(s, now=NOW, limit=9)])
    assert found == expected


async def test_jobs_that_cannot_run_here_hide_none_behind_them(db: Database) -> None:
    def fill(session: Session) -> str:
        for _ in range(40):
            submit(session, workflow="steadydancer", priority=5)
        return submit(session)

    last = await db.write(fill)
    found = await db.read(
        lambda s: [
            job.job_id for job in waiting_jobs(s, now=NOW, limit=32, without={"steadydancer"})
        ]
    )
    assert found == [last]


async def test_a_job_whose_cancel_was_asked_ends_canceled_however_its_attempt_is_lost(
    db: Database,
) -> None:
    def lose(session: Session) -> str:
        job_id = submit(session)
        fence = queue.claim(session, job_id, engine="0", attempt_id=str(uuid4()), now=NOW)
        assert fence is not None
        queue.cancel(session, job_id, now=NOW)
        queue.lose(session, fence, Loss.STALLED, NOTE, caps=Caps(max_stalls=1), now=NOW)
        return session.get_one(Job, job_id).status

    assert await db.write(lose) == Status.CANCELED


async def test_an_engine_that_never_begins_a_job_is_not_fed_for_ever(db: Database) -> None:
    def feed(session: Session) -> tuple[str, int]:
        job_id = submit(session)
        while session.get_one(Job, job_id).status == Status.QUEUED:
            fence = queue.claim(session, job_id, engine="0", attempt_id=str(uuid4()), now=NOW)
            assert fence is not None
            queue.lose(session, fence, Loss.NOT_STARTED, NOTE, caps=Caps(max_unstarted=4), now=NOW)
        job = session.get_one(Job, job_id)
        return job.status, job.attempt

    assert await db.write(feed) == (Status.FAILED, 4)
