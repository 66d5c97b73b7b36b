"""The fleet's parts without its processes: what they promise when others write beside them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import sqlalchemy as sa
from sqlmodel import Session

from app.database import Database
from app.doctor.store import look_at_server
from app.errors import InvalidRequest
from app.fleet import roster
from app.fleet.held import Done, HeldJobs, Later
from app.fleet.leader import Leader
from app.fleet.member import Member
from app.fleet.puller import queues_of
from app.fleet.rescue import Rescue
from app.jobs import queue
from app.jobs.dispatcher import Dispatcher
from app.jobs.distribution import next_class, vram_class
from app.jobs.queue import FailureNote, Fence, NewJob
from app.jobs.states import Caps, Loss, after_loss
from app.jobs.supply import Waiting
from app.jobs.tables import Job
from app.schema import revisions, upgrade
from app.webhooks import claims, outbox
from tests.clikit import Ended, invoke
from tests.conftest import Clock, empty
from tests.postgres import Server
from tests.template import MIGRATIONS

GIB = 1024
LEASE = timedelta(seconds=3)
CAPS = Caps(3, 2, 2)
HEAD = revisions(MIGRATIONS)[-1]


@pytest.fixture
def shared(request: pytest.FixtureRequest) -> Iterator[Database]:
    database = Database(request.getfixturevalue("migrated_server"))
    empty(database)
    with database.engine.begin() as connection:
        connection.execute(sa.text("TRUNCATE procrastinate_jobs, procrastinate_workers CASCADE"))
    database.open()
    yield database
    database.close()


def new_job(owner: str | None = None, workflow: str = "smoke", need: int = 0) -> NewJob:
    return NewJob(
        workflow=workflow,
        owner=owner,
        request={},
        inputs={},
        shape="s",
        formula_mib=need,
        low_memory_shape="t",
        low_memory_mib=need,
    )


async def submit(db: Database, clock: Clock, new: NewJob) -> str:
    return (await db.write(lambda session: queue.submit(session, new, now=clock()))).job_id


async def claim(db: Database, clock: Clock, job_id: str, engine: str = "w/engine-0") -> Fence:
    fence = await db.write(
        lambda session: queue.claim(
            session, job_id, engine=engine, attempt_id=f"a-{job_id}", now=clock()
        )
    )
    assert fence is not None
    return fence


def offers(db: Database) -> list[tuple[str, str, str]]:
    """Queue, job and status of what procrastinate holds, in its order."""
    with db.engine.connect() as connection:
        return [
            (row[0], row[1], row[2])
            for row in connection.execute(
                sa.text(
                    "SELECT queue_name, queueing_lock, status FROM procrastinate_jobs"
                    " ORDER BY priority DESC, id"
                )
            )
        ]


def execute(db: Database, text: str, **values: Any) -> None:
    with db.engine.begin() as connection:
        connection.execute(sa.text(text), values)


# --- classes of memory ---------------------------------------------------------------------------


def test_every_need_is_offered_to_the_cards_that_can_hold_it() -> None:
    for need in range(0, 300 * GIB, 300):
        vram = vram_class(need)
        assert f"vram-{vram}/smoke" in queues_of(need, ["smoke"])
        assert f"vram-{next_class(vram)}/smoke" not in queues_of(need, ["smoke"])
    assert f"vram-{vram_class(10**9)}/smoke" in queues_of(None, ["smoke"])


def test_a_worker_asks_only_for_workflows_that_it_has() -> None:
    assert queues_of(GIB, ["a", "b"]) == ["vram-0/a", "vram-0/b", "vram-1/a", "vram-1/b"]
    assert queues_of(GIB, []) == []


def test_a_card_a_little_larger_is_no_help() -> None:
    member = Member(Database("sqlite://"), name="w", version="1", lease=LEASE, worker=True)

    def has(mib: int | None, *, ready: bool = True) -> bool:
        seen = cast("Any", [SimpleNamespace(ready=ready, capacity_mib=mib)])
        member.remote._seen = seen
        return member._is_larger(23 * GIB + 100)

    assert not has(23 * GIB + 200)  # serves no queue that this card does not
    assert has(24 * GIB)
    assert has(None)
    assert not has(80 * GIB, ready=False)


# --- held jobs -----------------------------------------------------------------------------------


class FakeDispatcher:
    """What `HeldJobs` asks of a dispatcher."""

    def __init__(self) -> None:
        self.engine = SimpleNamespace(ready=True, missing={"a": (), "b": ("part",)})
        self.draining = False
        self.wants_jobs = True
        self.followed: set[str] = set()

    def follows(self, job_id: str) -> bool:
        return job_id in self.followed

    def wake(self) -> None: ...


def held_jobs(db: Database, clock: Clock) -> tuple[HeldJobs, FakeDispatcher]:
    dispatcher = FakeDispatcher()
    held = HeldJobs(db, 300, clock, larger=lambda _mib: True, capacity_mib=lambda: 24 * GIB)
    held.dispatcher = cast("Dispatcher", dispatcher)
    return held, dispatcher


async def given(held: HeldJobs, job_id: str) -> asyncio.Task[Done | Later]:
    task = asyncio.create_task(held.hold(job_id))
    await asyncio.sleep(0)
    return task


async def test_jobs_that_wait_for_memory_let_a_few_others_in(db: Database, clock: Clock) -> None:
    held, dispatcher = held_jobs(db, clock)
    assert held.hungry
    assert held.workflows == ["a"]
    tasks = []
    for number in range(4):
        tasks.append(await given(held, f"job-{number}"))
        assert not held.hungry  # not before admission has looked at it
        held.judged([f"job-{n}" for n in range(number + 1)])
        assert held.hungry == (number < 3)
    dispatcher.followed.add("job-0")
    assert held.hungry
    held.ended("job-0")
    assert await tasks[0] == Done()
    assert held.pass_on("job-1")
    assert await tasks[1] == Later(above_mib=24 * GIB)
    held.release()
    assert [await one for one in tasks[2:]] == [Later(), Later()]


async def test_a_held_job_that_is_no_longer_queued_is_let_go(db: Database, clock: Clock) -> None:
    held, _ = held_jobs(db, clock)
    job_id = await submit(db, clock, new_job())
    kept, gone = await given(held, job_id), await given(held, "no-such-job")
    found = await held.jobs(now=clock(), limit=10)
    assert [one.job_id for one in found] == [job_id]
    assert isinstance(found[0], Waiting)
    assert await gone == Done()
    assert await held.hold(job_id) == Later(2.0)  # twice the same: one of them waits
    held.release()
    await kept


async def test_an_engine_that_goes_gives_its_jobs_back(db: Database, clock: Clock) -> None:
    held, dispatcher = held_jobs(db, clock)
    task = await given(held, "job")
    dispatcher.engine.ready = False
    assert await task == Later()


# --- one leader ----------------------------------------------------------------------------------


async def test_one_process_leads_and_another_takes_over(migrated_server: str) -> None:
    led: asyncio.Queue[str] = asyncio.Queue()

    def leader(name: str) -> asyncio.Task[None]:
        async def loop() -> None:
            led.put_nowait(name)
            await asyncio.Event().wait()

        return asyncio.create_task(Leader(migrated_server, [loop]).run())

    first = leader("a")
    assert await asyncio.wait_for(led.get(), 60) == "a"
    second = leader("b")
    await asyncio.sleep(0.3)
    assert led.empty()
    first.cancel()
    assert await asyncio.wait_for(led.get(), 60) == "b"
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)


# --- what is offered -----------------------------------------------------------------------------


async def test_who_fills_the_queue_waits_behind_who_asks_for_little(
    shared: Database, clock: Clock
) -> None:
    greedy = [await submit(shared, clock, new_job("greedy")) for _ in range(5)]
    modest = await submit(shared, clock, new_job("modest"))
    order = [job_id for _, job_id, _ in offers(shared)]
    assert order == [greedy[0], modest, *greedy[1:]]
    fence = await claim(shared, clock, greedy[4])
    await shared.write(
        lambda session: queue.lose(
            session,
            fence,
            Loss.NOT_STARTED,
            FailureNote("engine-died", "It went."),
            caps=CAPS,
            now=clock(),
        )
    )
    execute(shared, "DELETE FROM procrastinate_jobs WHERE status = 'doing'")
    assert [job_id for _, job_id, _ in offers(shared)].count(greedy[4]) == 1


async def test_the_offers_of_a_dead_worker_are_put_right(shared: Database, clock: Clock) -> None:
    """One job was lost and is offered already, one was fetched and never claimed, one is alive."""
    rescue = Rescue(shared, caps=CAPS, lease=LEASE, now=clock)
    me = roster.Self("w", "i", "x", "1", ("w/engine-0",))
    assert await shared.write(lambda session: roster.enlist(session, me, lease=LEASE))
    lost, unclaimed, kept = [await submit(shared, clock, new_job()) for _ in range(3)]
    execute(shared, "INSERT INTO procrastinate_workers DEFAULT VALUES")
    execute(
        shared,
        "INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - interval '1 hour')",
    )
    take = (
        "UPDATE procrastinate_jobs SET status = 'doing', worker_id ="
        " (SELECT {}(id) FROM procrastinate_workers) WHERE queueing_lock = :id"
    )
    for job_id in (lost, unclaimed):
        execute(shared, take.format("max"), id=job_id)
    execute(shared, take.format("min"), id=kept)
    await claim(shared, clock, lost, "dead/engine-0")
    await claim(shared, clock, kept)

    await rescue.look()
    await rescue.look()

    found = {(job_id, status) for _, job_id, status in offers(shared)}
    assert found == {(lost, "todo"), (unclaimed, "todo"), (kept, "doing")}
    assert len(offers(shared)) == 3


async def test_a_worker_of_another_version_is_not_understood_and_harms_nobody(
    shared: Database,
) -> None:
    me = roster.Self("w", "i", "x", "1", ("w/engine-0",))
    await shared.write(lambda session: roster.enlist(session, me, lease=LEASE))
    execute(shared, """UPDATE worker SET states = '[{"words": "of tomorrow"}]'""")
    workers = await shared.read(lambda session: roster.present(session, lease=LEASE))
    assert len(workers) == 1
    assert roster.states(workers) == []
    await shared.write(lambda session: roster.leave(session, me))
    assert not await shared.read(lambda session: roster.present(session, lease=LEASE))


# --- two that write at once ----------------------------------------------------------------------


def beside(db: Database, work: Any) -> Any:
    """Do `work` in a transaction of its own, as another process would."""
    other = Database(db.url)
    other.open()
    try:
        return asyncio.run(other.write(work))
    finally:
        other.close()


async def test_a_cancel_between_look_and_requeue_is_not_lost(
    shared: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await submit(shared, clock, new_job())
    fence = await claim(shared, clock, job_id)
    with ThreadPoolExecutor(1) as pool:
        asked: list[Any] = []
        judge = after_loss

        def meanwhile(*args: Any, **more: Any) -> Any:
            if not asked:
                asked.append(
                    pool.submit(
                        beside, shared, lambda session: queue.cancel(session, job_id, now=clock())
                    )
                )
                time.sleep(0.3)  # the other one is at its statement, waiting or done
            return judge(*args, **more)

        monkeypatch.setattr("app.jobs.queue.after_loss", meanwhile)
        await shared.write(
            lambda session: queue.lose(
                session,
                fence,
                Loss.NOT_STARTED,
                FailureNote("engine-died", "It went."),
                caps=CAPS,
                now=clock(),
            )
        )
        assert await asyncio.wrap_future(asked[0])
    status = await shared.read(lambda session: cast("Job", session.get(Job, job_id)).status)
    assert status == "canceled"


async def test_what_an_engine_or_a_receiver_says_can_be_stored(
    shared: Database, clock: Clock
) -> None:
    """An end that cannot be written would be tried for ever, and stop who writes it."""
    job_id = await submit(shared, clock, new_job())
    fence = await claim(shared, clock, job_id)
    note = FailureNote("execution-error", "It said \x00.", private="\x00")
    assert await shared.write(
        lambda session: queue.fail(session, fence, note, log_tail="a\x00b", now=clock())
    )
    await shared.write(
        lambda session: outbox.enqueue(
            session,
            job_id=job_id,
            owner=None,
            url="https://receiver.example/",
            event_type="job.failed",
            payload={},
            now=clock(),
        )
    )
    claimed = await shared.write(
        lambda session: claims.claim(
            session, room=1, per_target=1, busy={}, lease=LEASE, now=clock()
        )
    )
    told = claims.Try(clock(), 0.1, status_code=500, answer="\x00")
    settled = await shared.write(
        lambda session: claims.settle(
            session, claimed[0], told, retry_at=clock() + LEASE, now=clock()
        )
    )
    assert settled == "retried"


async def test_two_leaders_send_no_message_twice(shared: Database, clock: Clock) -> None:
    """For moments there may be two: what one has claimed is no longer due for the other."""
    job_id = await submit(shared, clock, new_job())
    await shared.write(
        lambda session: outbox.enqueue(
            session,
            job_id=job_id,
            owner=None,
            url="https://receiver.example/",
            event_type="job.failed",
            payload={},
            now=clock(),
        )
    )

    def take(session: Session) -> list[claims.Claimed]:
        found = claims.claim(session, room=1, per_target=1, busy={}, lease=LEASE, now=clock())
        session.flush()
        time.sleep(0.3)
        return found

    both = await asyncio.gather(shared.write(take), shared.write(take))
    assert sorted(len(found) for found in both) == [0, 1]


async def test_what_a_database_cannot_hold_is_the_callers_fault(shared: Database) -> None:
    with pytest.raises(InvalidRequest, match="NUL"):
        await shared.read(lambda session: session.get(Job, "a\x00b"))


async def test_a_row_that_went_since_it_was_looked_up_is_looked_up_again(
    shared: Database, clock: Clock
) -> None:
    job_id = await submit(shared, clock, new_job())
    tries: list[bool] = []

    def change(session: Session) -> bool:
        job = session.get(Job, job_id)
        tries.append(job is not None)
        if job is None:
            return False
        beside_engine = Database(shared.url)
        execute(beside_engine, "DELETE FROM job")
        beside_engine.close()
        job.priority = 7
        return True

    assert not await shared.write(change)
    assert tries == [True, False]


def test_processes_that_start_at_once_make_the_schema_once(server: Server) -> None:
    url = server.url(server.create())
    with get_context("fork").Pool(3) as pool:
        before = {found[0] for found in pool.map(_upgraded, [url] * 3, chunksize=1)}
    assert before <= {None, HEAD}
    assert _upgraded(url) == (HEAD, HEAD)


def _upgraded(url: str) -> tuple[str | None, str]:
    database = Database(url)
    try:
        return upgrade(database.engine, MIGRATIONS)
    finally:
        database.close()


# --- what operators ask --------------------------------------------------------------------------


@pytest.fixture
def command(
    shared: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Ended]:
    """`steadydancer` with the shared store in its environment."""
    given = {"GATEWAY_DATABASE_URL": shared.url, "GATEWAY_DATA_DIR": str(tmp_path / "data")}
    return lambda *words: invoke(monkeypatch, capsys, *words, environment=given)


async def enlisted(db: Database, name: str) -> roster.Self:
    me = roster.Self(name, name, "x", "1", (f"{name}/engine-0",))
    assert await db.write(lambda session: roster.enlist(session, me, lease=LEASE))
    return me


def test_a_worker_is_drained_and_resumed_by_name(
    shared: Database, command: Callable[..., Ended]
) -> None:
    me = asyncio.run(enlisted(shared, "pod-7"))
    asyncio.run(enlisted(shared, "pod-8"))

    def told() -> bool | None:
        return asyncio.run(shared.write(lambda session: roster.report(session, me, [])))

    assert command("workers", "drain", "pod-7").returncode == 0
    assert told() is True
    rows = json.loads(command("workers", "list", "--json").stdout)
    assert [(row["name"], row["present"], row["draining"]) for row in rows] == [
        ("pod-7", True, True),
        ("pod-8", True, False),
    ]
    assert "pod-7                    there, draining" in command("workers", "list").stdout
    assert json.loads(command("workers", "resume", "pod-7", "--json").stdout) == {
        "name": "pod-7",
        "draining": False,
    }
    assert told() is False
    refused = command("workers", "drain", "pod-9")
    assert refused.returncode == 2
    assert "no worker 'pod-9'" in refused.stderr


def test_a_shared_store_is_backed_up_by_its_servers_tools(command: Callable[..., Ended]) -> None:
    run = command("db", "backup", "copy.db")
    assert run.returncode == 2
    assert "pg_dump" in run.stderr


def test_a_command_of_another_version_leaves_a_shared_store_as_it_is(
    shared: Database, command: Callable[..., Ended]
) -> None:
    execute(shared, "UPDATE alembic_version SET version_num = '0001'")
    try:
        run = command("keys", "list")
    finally:
        execute(shared, "UPDATE alembic_version SET version_num = :head", head=HEAD)
    assert run.returncode == 2
    assert "has schema 0001" in run.stderr


def test_doctor_looks_at_the_server(shared: Database) -> None:
    asyncio.run(enlisted(shared, "pod-7"))
    seen = look_at_server(shared.url, revisions(MIGRATIONS))
    assert [(one.name, one.status) for one in seen.findings] == [
        ("database", "ok"),
        ("workers", "ok"),
    ]
    assert seen.admin_keys == 0
    away = look_at_server("postgresql+psycopg://a:secret@127.0.0.1:9/x", ["1"])
    assert away.findings[0].status == "fail"
    assert "secret" not in away.findings[0].detail
