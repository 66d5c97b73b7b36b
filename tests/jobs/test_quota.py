"""The queue's limits, held without counting each time."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlmodel import Session

from app.access.limits import Limiter
from app.access.scopes import LOCAL, Caller, Scope
from app.database import Database
from app.errors import QueueFull, RateLimited
from app.jobs import queue
from app.jobs.queue import NewJob
from app.jobs.quota import QueueQuota, queued
from tests.conftest import Clock

pytestmark = pytest.mark.both_databases


def caller(name: str) -> Caller:
    return Caller(id=name, name=name, scopes=frozenset({Scope.SUBMIT}))


def quota(*, total: int = 100, each: int = 100) -> QueueQuota:
    limiter = Limiter(
        requests_per_minute=1000, upload_bytes_per_hour=1000, queued_jobs=each, watchers=1
    )
    return QueueQuota(limiter=limiter, max_queued_jobs=total)


async def submit(db: Database, quota: QueueQuota, clock: Clock, who: Caller) -> str:
    new = NewJob("smoke", who.id, {}, {}, "a/b/1x1x1", 1, "a/b/1x1x1", 1)

    def work(session: Session) -> str:
        quota.take(session, who)
        return queue.submit(session, new, now=clock()).job_id

    return await db.write(work)


async def test_the_queue_takes_as_many_as_allowed_and_again_when_some_have_gone(
    db: Database, clock: Clock
) -> None:
    limit = quota(total=3)
    jobs = [await submit(db, limit, clock, LOCAL) for _ in range(3)]
    for _ in range(2):
        with pytest.raises(QueueFull):
            await submit(db, limit, clock, LOCAL)
    assert await db.read(queued) == 3
    await db.write(lambda session: queue.cancel(session, jobs[0], now=clock()))
    await submit(db, limit, clock, LOCAL)
    with pytest.raises(QueueFull):
        await submit(db, limit, clock, LOCAL)


async def test_a_key_has_its_own_limit(db: Database, clock: Clock) -> None:
    limit = quota(each=2)
    one, two = caller("one"), caller("two")
    jobs = [await submit(db, limit, clock, one) for _ in range(2)]
    with pytest.raises(RateLimited):
        await submit(db, limit, clock, one)
    await submit(db, limit, clock, two)
    await db.write(lambda session: queue.cancel(session, jobs[0], now=clock()))
    await submit(db, limit, clock, one)


async def test_jobs_from_before_the_start_count(db: Database, clock: Clock) -> None:
    await submit(db, quota(), clock, caller("one"))
    with pytest.raises(QueueFull):
        await submit(db, quota(total=1), clock, LOCAL)
    with pytest.raises(RateLimited):
        await submit(db, quota(each=1), clock, caller("one"))


@pytest.mark.sqlite_only
async def test_below_the_limit_nothing_is_counted(db: Database, clock: Clock) -> None:
    limit = quota()
    await submit(db, limit, clock, caller("one"))
    asked: list[str] = []
    sa.event.listen(
        db.engine,
        "before_cursor_execute",
        lambda _c, _cur, statement, *_rest: asked.append(statement),
    )
    await submit(db, limit, clock, caller("one"))
    assert asked
    assert not any("count(" in statement for statement in asked)
