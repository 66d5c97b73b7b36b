"""A store that is full already. SQLite itself multiplies the rows: a second for 100,000."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlmodel import SQLModel, insert

from app.database import Database
from app.gpu.tables import VramSample
from app.jobs.tables import Job
from app.schema import upgrade

ROOT = Path(__file__).resolve().parents[1]
DAYS = 20
"""The jobs came evenly over so many days, the last of them now."""

_ERROR = {
    "type": "out-of-memory",
    "title": "The GPU ran out of memory",
    "detail": "There was not enough GPU memory.",
    "advice": "Ask for a smaller size or fewer frames.",
    "retryable": True,
}


def fill(directory: Path, jobs: int, *, queued: int) -> None:
    """Make a store with the jobs `job 0` (the oldest) to `job N-1`.

    The newest `queued` wait for an engine. Of the others every fifth failed and the rest was
    canceled. A third is of the main workflow.
    """
    directory.mkdir(parents=True, exist_ok=True)
    database = Database(f"sqlite:///{directory / 'gateway.db'}")
    upgrade(database.engine, ROOT / "migrations")
    now = datetime.now(UTC)
    start = int((now - timedelta(days=DAYS)).timestamp() * 1000)
    each = DAYS * 86_400_000 // jobs
    with database.engine.begin() as connection:
        connection.execute(sa.text("PRAGMA foreign_keys=OFF"))
        connection.execute(insert(Job), [_pattern(status, now) for status in _PATTERNS])
        figures = {"jobs": jobs, "queued": queued, "start": start, "each": each}
        connection.execute(sa.text(_multiplied()), figures)
        connection.execute(sa.text("DELETE FROM job WHERE id LIKE 'pattern-%'"))
        connection.execute(sa.text(_LABELS))
        connection.execute(insert(VramSample), [_sample(now)])
    database.close()


_PATTERNS = ("queued", "failed", "canceled")


def _pattern(status: str, at: datetime) -> dict[str, Any]:
    return {
        "id": f"pattern-{status}",
        "workflow": "smoke",
        "status": status,
        "phase": "waiting_for_engine" if status == "queued" else None,
        "request": {},
        "labels": {},
        "warnings": [],
        "created_at": at,
        "finished_at": None if status == "queued" else at,
        "error": _ERROR if status == "failed" else None,
    }


def _multiplied() -> str:
    """One statement that makes every job from the row that is its pattern."""
    at = "strftime('%Y-%m-%d %H:%M:%f000', {} / 1000.0, 'unixepoch')"
    own = {
        # A UUIDv7: the milliseconds, then what makes it one of its kind.
        "id": "printf('%08x-%04x-7%03x-8000-%012x', ms >> 16, ms & 65535, n & 4095, n)",
        "workflow": "iif(n % 3, 'smoke', 'steadydancer')",
        "request": "json_object('prompt', 'dance number ' || n, 'width', 480, 'height', 832)",
        "labels": "json_object('name', 'job ' || n)",
        "created_at": at.format("ms"),
        "finished_at": f"iif(status = 'queued', NULL, {at.format('(ms + 180000)')})",
    }
    names = [column.name for column in SQLModel.metadata.tables["job"].columns]
    values = ", ".join(own.get(name, f"job.{name}") for name in names)
    return f"""
        WITH RECURSIVE
            number(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM number WHERE n + 1 < :jobs),
            made AS (SELECT n, :start + n * :each AS ms, 'pattern-' || CASE
                WHEN n >= :jobs - :queued THEN 'queued' WHEN n % 5 THEN 'canceled' ELSE 'failed'
            END AS pattern FROM number)
        INSERT INTO job ({", ".join(names)})
        SELECT {values} FROM made JOIN job ON job.id = made.pattern
    """  # noqa: S608 - the names of our own columns


_LABELS = """
    INSERT INTO job_label (job_id, key, value)
    SELECT id, 'name', json_extract(labels, '$.name') FROM job
"""


def _sample(at: datetime) -> dict[str, Any]:
    shape = {"workflow": "steadydancer", "variant": "q4_k_m/fast", "width": 480, "height": 832}
    card = {"card": "Simulated 24 GB card", "card_mib": 23_684}
    seen = {"peak_mib": 12_288, "oom": False, "source": "process", "at": at}
    return {**shape, "frames": 81, **card, **seen}
