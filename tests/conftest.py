"""What every room's tests share: a migrated database and a clock moved by hand."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlmodel import SQLModel

from app.database import Database
from app.schema import upgrade
from tests.postgres import Server, running_postgres
from tests.spread import pytest_collection_modifyitems, pytest_xdist_make_scheduler
from tests.template import MIGRATIONS, empty_store

__all__ = ["pytest_collection_modifyitems", "pytest_xdist_make_scheduler"]  # pytest's hooks

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs deaf to Ctrl-C, and every program a test starts inherits it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test calls a real host by TLS. Each httpx client, of ours and of every program we start, reads
# all authorities that it trusts: 140 of them take 30 ms of CPU, this one takes none.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).with_name("root.pem"))

# Which part of what is dealt out over the days is due: told to pytest-xdist's workers by the first
# process, since they have to agree, also at midnight.
os.environ.setdefault("GATEWAY_TEST_DAY", str(datetime.now(UTC).toordinal()))


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
def migrated() -> Path:
    """An empty database at the newest schema, made once by the migrations."""
    return empty_store()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A PostgreSQL server."""
    with running_postgres() as started:
        yield started


@pytest.fixture(scope="session")
def migrated_server(server: Server) -> str:
    """The URL of a PostgreSQL database at the newest schema, for one test after another."""
    url = server.url(server.create())
    database = Database(url)
    upgrade(database.engine, MIGRATIONS)
    database.close()
    return url


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is marked `both_databases` on each of the two that the gateway runs on."""
    marked = metafunc.definition.get_closest_marker
    if "db" in metafunc.fixturenames and marked("both_databases") and not marked("sqlite_only"):
        metafunc.parametrize("db", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database of the test's own."""
    if getattr(request, "param", "sqlite") == "sqlite":
        path = tmp_path / "gateway.db"
        shutil.copy(request.getfixturevalue("migrated"), path)
        database = Database(f"sqlite:///{path}")
    else:
        database = Database(request.getfixturevalue("migrated_server"))
        empty(database)
    database.open()
    yield database
    database.close()


def empty(database: Database) -> None:
    """Delete every row, and let the ids begin at 1 again."""
    names = ", ".join(f'"{name}"' for name in SQLModel.metadata.tables)
    with database.engine.begin() as connection:
        connection.execute(sa.text(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))
