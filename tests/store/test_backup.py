"""Backups are whole, also while somebody writes, and a damaged one is never put back."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlmodel import Session, select

from app.backup import backup, check, restore
from app.database import Database
from app.errors import Misconfigured, StoreUnavailable
from app.gateway import Gateway
from app.instance import sole_instance
from app.jobs import queue
from app.jobs.queue import NewJob
from app.jobs.tables import Job, JobEvent
from app.settings import Settings

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def submit(session: Session) -> str:
    new = NewJob(
        workflow="smoke",
        owner=None,
        request={},
        inputs={},
        shape="smoke/default/64x112x17",
        formula_mib=1,
        low_memory_shape="smoke/default+low/64x112x17",
        low_memory_mib=1,
    )
    return queue.submit(session, new, now=NOW).job_id


def opened(path: Path) -> Database:
    database = Database(f"sqlite:///{path}")
    database.open()
    return database


def jobs_and_events(session: Session) -> tuple[set[str], set[str]]:
    return set(session.exec(select(Job.id)).all()), set(session.exec(select(JobEvent.job_id)).all())


async def test_a_backup_taken_under_load_holds_every_job_that_was_promised_before_it(
    db: Database, tmp_path: Path
) -> None:
    assert db.path is not None
    before = {await db.write(submit) for _ in range(20)}
    stop = asyncio.Event()
    later: list[str] = []

    async def load() -> None:
        while not stop.is_set():
            later.append(await db.write(submit))

    writers = [asyncio.create_task(load()) for _ in range(4)]
    target = tmp_path / "copy.db"
    for _ in range(3):
        await asyncio.to_thread(backup, db.path, target)
    stop.set()
    await asyncio.gather(*writers)
    assert later, "nothing was written meanwhile, so this showed nothing"

    copy = opened(target)
    jobs, told = await copy.read(jobs_and_events)
    copy.close()
    assert before <= jobs
    assert jobs == told, "a job without its first event: the copy cut a transaction in two"


async def test_a_restored_backup_is_the_store_again_and_the_old_one_is_kept(
    db: Database, tmp_path: Path
) -> None:
    assert db.path is not None
    kept = await db.write(submit)
    copy = tmp_path / "copy.db"
    backup(db.path, copy)
    lost = await db.write(submit)
    db.close()

    restore(copy, db.path)

    again = opened(db.path)
    jobs, _ = await again.read(jobs_and_events)
    again.close()
    assert jobs == {kept}
    old = opened(db.path.with_name("gateway.db.before-restore"))
    jobs, _ = await old.read(jobs_and_events)
    old.close()
    assert jobs == {kept, lost}


async def test_a_database_that_is_held_is_not_called_damaged(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert db.path is not None
    db.close()
    monkeypatch.setattr("app.backup._BUSY_SECONDS", 0.01)
    holder = sqlite3.connect(db.path, isolation_level=None)
    holder.execute("PRAGMA locking_mode=EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreUnavailable, match="Another process holds"):
        check(db.path)
    holder.close()


async def test_a_damaged_file_is_refused_and_harms_nothing(db: Database, tmp_path: Path) -> None:
    assert db.path is not None
    for _ in range(200):
        await db.write(submit)
    copy = tmp_path / "copy.db"
    backup(db.path, copy)
    torn = bytearray(copy.read_bytes())
    torn[20_000:60_000] = b"\x00" * 40_000
    copy.write_bytes(torn)
    db.close()
    before = db.path.read_bytes()
    with pytest.raises(StoreUnavailable, match="damaged"):
        check(copy)
    with pytest.raises(StoreUnavailable, match="damaged"):
        restore(copy, db.path)
    assert db.path.read_bytes() == before


async def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    gateway = Gateway(Settings(data_dir=tmp_path / "data", admission="off"))
    with pytest.raises(Misconfigured, match=r"/data cannot be made: .* GATEWAY_DATA_DIR"):
        async with gateway.running():
            pass


def test_a_second_gateway_is_refused_and_a_dead_one_leaves_nothing_behind(tmp_path: Path) -> None:
    with (
        sole_instance(tmp_path),
        pytest.raises(StoreUnavailable, match="Another gateway"),
        sole_instance(tmp_path),
    ):
        pass
    with sole_instance(tmp_path):
        pass
