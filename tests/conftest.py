"""What every room's tests share: a migrated database and a clock moved by hand."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.database import Database
from app.schema import upgrade
from tests.spread import pytest_collection_modifyitems, pytest_xdist_make_scheduler

__all__ = ["pytest_collection_modifyitems", "pytest_xdist_make_scheduler"]  # pytest's hooks

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs deaf to Ctrl-C, and every program a test starts inherits it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test calls a real host by TLS. Each httpx client, of ours and of every program we start, reads
# all authorities that it trusts: 140 of them take 30 ms of CPU, this one takes none.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).with_name("root.pem"))

MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"


class Clock:
    """A clock that moves only when it is told to."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database at the newest schema, made once by the migrations."""
    path = tmp_path_factory.mktemp("template") / "gateway.db"
    database = Database(f"sqlite:///{path}")
    upgrade(database.engine, MIGRATIONS)
    database.close()
    return path


@pytest.fixture
def db(migrated: Path, tmp_path: Path) -> Iterator[Database]:
    """A database of the test's own."""
    path = tmp_path / "gateway.db"
    shutil.copy(migrated, path)
    database = Database(f"sqlite:///{path}")
    database.open()
    yield database
    database.close()
