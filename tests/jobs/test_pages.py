"""Pages of a list: what they hold with any filter, and which index each one walks."""

from __future__ import annotations

import random
from typing import Any

import pytest
import sqlalchemy as sa
from sqlmodel import Session

from app.database import Database
from app.errors import InvalidRequest
from app.jobs import pages, queue
from app.jobs.pages import Filter, Order, Place, make_cursor, newest, waiting
from app.jobs.queue import FailureNote, NewJob
from app.jobs.states import Status
from app.wire import Job
from tests.conftest import Clock

pytestmark = pytest.mark.both_databases

JOBS = 120


def _submit(session: Session, clock: Clock, **chosen: Any) -> str:
    given: dict[str, Any] = {"owner": None, "workflow": "smoke", **chosen}
    new = NewJob(
        request={},
        inputs={},
        shape="a/b/1x1x1",
        formula_mib=1,
        low_memory_shape="a/b/1x1x1",
        low_memory_mib=1,
        **given,
    )
    return queue.submit(session, new, now=clock()).job_id


def _follow(session: Session, which: Filter, *, order: Order = "newest") -> list[Job]:
    found: list[Job] = []
    cursor: str | None = None
    while True:
        page, cursor = pages.page(session, which, limit=7, cursor=cursor, order=order)
        found += page
        if cursor is None:
            return found


def _plan(session: Session, chosen: sa.Select[str]) -> list[str]:
    text = chosen.limit(51).compile(session.get_bind(), compile_kwargs={"literal_binds": True})
    rows = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {text}")
    return [str(row[3]) for row in rows]


def _fill(session: Session, clock: Clock) -> list[dict[str, Any]]:
    """Jobs with everything that a filter asks for, chosen at random; newest first."""
    rng = random.Random(5)
    made = []
    for number in range(JOBS):
        chosen: dict[str, Any] = {
            "owner": rng.choice(("one", "two")),
            "workflow": rng.choice(("smoke", "steadydancer")),
            "batch_id": rng.choice((None, "batch")),
            "labels": {"team": rng.choice("rg"), **({"n": "1"} if number % 2 else {})},
        }
        status = rng.choice((Status.QUEUED, Status.CANCELED, Status.FAILED))
        job_id = _submit(session, clock, **chosen)
        if status is Status.CANCELED:
            queue.cancel(session, job_id, now=clock())
        if status is Status.FAILED:
            queue.expire(
                session, job_id, FailureNote("out-of-memory", "It never fits."), now=clock()
            )
        made.append({"id": job_id, "status": status, **chosen})
    return made[::-1]


FILTERS = [
    Filter(owner=owner, status=status, workflow=workflow, batch_id=batch_id, labels=labels)
    for owner in (None, "two")
    for status in ((), ("queued",), ("queued", "failed"), ("running",))
    for workflow in (None, "smoke")
    for batch_id in (None, "batch")
    for labels in ({}, {"team": "r"}, {"team": "g", "n": "1"})
]


def _wanted(job: dict[str, Any], which: Filter) -> bool:
    return (
        which.owner in {None, job["owner"]}
        and (not which.status or job["status"] in which.status)
        and which.workflow in {None, job["workflow"]}
        and which.batch_id in {None, job["batch_id"]}
        and which.labels.items() <= job["labels"].items()
    )


@pytest.mark.sqlite_only
async def test_the_pages_of_any_filter_give_each_job_once_and_newest_first(
    db: Database, clock: Clock
) -> None:
    jobs = await db.write(lambda session: _fill(session, clock))

    for which in FILTERS:
        found = await db.read(lambda session, which=which: _follow(session, which))  # type: ignore[misc]
        assert [job.id for job in found] == [job["id"] for job in jobs if _wanted(job, which)]


async def test_the_pages_of_the_queue_are_in_the_order_in_which_jobs_start(
    db: Database, clock: Clock
) -> None:
    def fill(session: Session) -> list[tuple[int, str]]:
        rng = random.Random(6)
        made = []
        for number in range(60):
            priority = rng.choice((-5, 0, 0, 7))
            job_id = _submit(session, clock, priority=priority, labels={"n": str(number % 2)})
            if number % 7:
                made.append((-priority, job_id))
            else:
                queue.cancel(session, job_id, now=clock())
        return sorted(made)

    queued = await db.write(fill)
    found = await db.read(lambda session: _follow(session, Filter(), order="queue"))
    assert [job.id for job in found] == [job_id for _, job_id in queued]
    assert [job.queue_position for job in found] == list(range(len(queued)))
    odd = await db.read(lambda session: _follow(session, Filter(labels={"n": "1"}), order="queue"))
    assert odd == [job for job in found if job.metadata == {"n": "1"}]


@pytest.mark.sqlite_only
async def test_the_queue_is_read_in_the_order_of_its_index(db: Database) -> None:
    after = Place("019f0000-0000-7000-8000-000000000000", 3)
    for place in (None, after):
        plan = await db.read(lambda session, at=place: _plan(session, waiting(Filter(), after=at)))  # type: ignore[misc]
        assert "INDEX ix_job_queue" in plan[0], plan
        assert not any("TEMP B-TREE" in step for step in plan), plan


@pytest.mark.parametrize(
    ("which", "index"),
    [
        (Filter(), "sqlite_autoindex_job_1"),
        (Filter(status=("succeeded",)), "ix_job_status"),
        (Filter(status=("succeeded", "failed")), "ix_job_status"),
        (Filter(owner="one"), "ix_job_owner"),
        (Filter(owner="one", status=("failed",)), "ix_job_owner_status"),
        (Filter(workflow="smoke"), "ix_job_workflow"),
        (Filter(labels={"team": "r"}), "ix_job_label_pair"),
        (Filter(labels={"team": "r"}, status=("failed",)), "ix_job_label_pair"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("cursor", [None, "019f0000-0000-7000-8000-000000000000"])
@pytest.mark.sqlite_only
async def test_a_page_is_read_in_the_order_of_an_index(
    db: Database, which: Filter, index: str, cursor: str | None
) -> None:
    """A page costs what it shows, not what the store holds: nothing is sorted to find it."""

    def plans(session: Session) -> list[list[str]]:
        statuses = which.status or (None,)
        return [_plan(session, newest(which, status, before=cursor)) for status in statuses]

    for plan in await db.read(plans):
        assert f"INDEX {index}" in plan[0], plan
        assert not any("TEMP B-TREE" in step for step in plan), plan


@pytest.mark.sqlite_only
@pytest.mark.parametrize("priority", [True, 0.5, 1.0, "1", None, 101])
async def test_a_forged_place_in_the_queue_is_no_cursor(db: Database, priority: Any) -> None:
    cursor = make_cursor(Place("019f0000-0000-7000-8000-000000000000", priority))
    if priority is None:
        cursor = make_cursor(Place("019f0000-0000-7000-8000-000000000000"))
    with pytest.raises(InvalidRequest):
        await db.read(lambda s: pages.page(s, Filter(), limit=1, cursor=cursor, order="queue"))
