"""A real database, a store over it, and a clock moved by hand."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlmodel import SQLModel

import app.jobs.tables  # noqa: F401 - artifact refers to job
from app.database import Database
from app.media.store import BlobStore


class Clock:
    """Time that moves only when told to."""

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 23, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def advance(self, **by: float) -> None:
        self.time += timedelta(**by)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'gateway.db'}")
    SQLModel.metadata.create_all(database.engine)
    database.open()
    yield database
    database.close()


@pytest.fixture
def store(db: Database, clock: Clock) -> BlobStore:
    return BlobStore(db, now=clock, chunk_bytes=1000)
