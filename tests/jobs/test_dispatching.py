"""Which queued jobs are offered to an engine, and in what order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import cast
from uuid import uuid4

import pytest
from sqlmodel import Session

from app.comfy.client import ComfyClient
from app.database import Database
from app.gpu.estimate import Estimator
from app.gpu.monitor import GpuMonitor
from app.jobs import queue
from app.jobs.dispatcher import Dispatcher
from app.jobs.engine import Engine
from app.jobs.feed import Feed
from app.jobs.gate import Gate
from app.jobs.queue import Fence
from app.jobs.runner import Runner
from app.jobs.states import Caps, Loss, Status
from app.jobs.supply import TableSupply, waiting_jobs
from app.jobs.tables import Job
from app.workflows.registry import load_workflows
from tests.jobs.test_moves import NOTE, new_job

pytestmark = pytest.mark.both_databases

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"


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


class Lingering:
    """A runner whose first attempt is lost, and whose task ends only when it is let go."""

    def __init__(self, fence: Fence, db: Database, let_go: asyncio.Event) -> None:
        self.fence = fence
        self.cancel = asyncio.Event()
        self.in_engine = self.placed = True
        self.db, self.let_go = db, let_go

    async def run(self) -> None:
        if self.fence.number == 1:
            self.in_engine = False
            await self.db.write(
                lambda s: queue.lose(s, self.fence, Loss.STALLED, NOTE, caps=Caps(), now=NOW)
            )
            await self.let_go.wait()
        else:
            await self.cancel.wait()


async def test_an_attempt_is_known_though_the_task_of_the_one_before_ends_after_it_began(
    db: Database,
) -> None:
    client = ComfyClient("http://127.0.0.1:9")
    engine = Engine(name="0", client=client, workflows=load_workflows(WORKFLOWS))
    engine.state, engine.missing = "ready", {"smoke": ()}
    let_go, runners = asyncio.Event(), list[Lingering]()

    def make_runner(fence: Fence, *, need_mib: int, wake: Callable[[], None]) -> Runner:
        assert (need_mib, wake) == (100, dispatcher.wake)
        runners.append(Lingering(fence, db, let_go))
        return cast("Runner", runners[-1])

    gate = Gate(
        engine=engine,
        monitor=GpuMonitor(card=None, margin_mib=0),
        estimator=Estimator(database=db, margin_mib=0),
        backfill_seconds=0,
    )
    dispatcher = Dispatcher(
        engine=engine,
        db=db,
        supply=TableSupply(db),
        gate=gate,
        feed=Feed(),
        make_runner=make_runner,
        caps=Caps(),
        tick_seconds=0.01,
        now=lambda: NOW,
    )
    job_id = await db.write(submit)
    running = asyncio.create_task(dispatcher.run())
    async with asyncio.timeout(20):
        while len(runners) < 2:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
        let_go.set()
        for _ in range(5):
            await asyncio.sleep(0.01)
        assert dispatcher.in_engine == [job_id]
        dispatcher.cancel(job_id)
        assert runners[1].cancel.is_set()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await client.aclose()
