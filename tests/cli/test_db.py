"""`steadydancer db`: nothing that was promised is lost, and nothing damaged is put in its place."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from app.database import Database
from app.instance import sole_instance
from app.schema import revisions
from tests.clikit import Ended, invoke

ROOT = Path(__file__).resolve().parents[2]
HEAD = revisions(ROOT / "migrations")[-1]

Run = Callable[..., Ended]


@pytest.fixture
def data(db: Database) -> Path:
    """A data directory whose database is open, as under a running gateway."""
    assert db.path is not None
    return db.path.parent


@pytest.fixture
def run(data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `steadydancer db …` on it."""

    def command(*words: str, **environment: str) -> Ended:
        given = {"GATEWAY_DATA_DIR": str(data), **environment}
        return invoke(monkeypatch, capsys, "db", *words, environment=given)

    return command


def marked(path: Path, mark: str | None = None) -> list[str]:
    """Write a mark into a database, or read those that are there."""
    connection = sqlite3.connect(path)
    try:
        connection.execute("CREATE TABLE IF NOT EXISTS mark (word TEXT)")
        if mark is not None:
            connection.execute("INSERT INTO mark VALUES (?)", [mark])
        connection.commit()
        return [row[0] for row in connection.execute("SELECT word FROM mark")]
    finally:
        connection.close()


def test_a_backup_is_made_beside_a_running_gateway_and_put_back(
    run: Run, db: Database, data: Path, tmp_path: Path
) -> None:
    marked(data / "gateway.db", "before")
    copy = tmp_path / "copy.db"
    with sole_instance(data):
        assert "checked" in run("backup", str(copy)).stdout
    db.close()
    marked(data / "gateway.db", "after")
    assert run("restore", str(copy)).returncode == 0
    assert marked(data / "gateway.db") == ["before"]
    assert marked(data / "gateway.db.before-restore") == ["before", "after"]


def test_a_restore_under_a_running_gateway_is_refused(run: Run, data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    run("backup", str(copy))
    marked(data / "gateway.db", "kept")
    with sole_instance(data):
        done = run("restore", str(copy))
    assert done.returncode == 2
    assert "Another gateway" in done.stderr
    assert marked(data / "gateway.db") == ["kept"]


def test_a_damaged_backup_is_not_put_back(run: Run, data: Path, tmp_path: Path) -> None:
    marked(data / "gateway.db", "kept")
    copy = tmp_path / "copy.db"
    copy.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    assert run("restore", str(copy)).returncode == 2
    assert marked(data / "gateway.db") == ["kept"]


def test_the_database_is_never_its_own_backup(run: Run, data: Path) -> None:
    for command in ("backup", "restore"):
        done = run(command, str(data / "gateway.db"))
        assert done.returncode == 2
        assert "is the database itself" in done.stderr


def test_a_backup_into_no_folder_is_said_in_words(run: Run, tmp_path: Path) -> None:
    done = run("backup", str(tmp_path / "none" / "copy.db"))
    assert done.returncode == 2
    assert "There is no folder" in done.stderr


def test_check_tells_a_sound_database_from_a_damaged_one(
    run: Run, db: Database, data: Path
) -> None:
    done = run("check")
    assert done.returncode == 0
    assert HEAD in done.stdout
    db.close()
    file = data / "gateway.db"
    file.write_bytes(file.read_bytes()[:8192] + b"\xff" * 40_000)
    done = run("check")
    assert done.returncode == 1
    assert "damaged" in done.stderr


def test_check_says_when_there_is_none(run: Run, tmp_path: Path) -> None:
    done = run("check", GATEWAY_DATA_DIR=str(tmp_path / "elsewhere"))
    assert done.returncode == 1
    assert "no database" in done.stderr


def test_upgrade_makes_a_new_database_and_then_has_nothing_to_do(run: Run, tmp_path: Path) -> None:
    new = str(tmp_path / "new")
    assert f"to {HEAD}" in run("upgrade", GATEWAY_DATA_DIR=new).stdout
    assert "nothing to do" in run("upgrade", GATEWAY_DATA_DIR=new).stdout
    assert run("check", GATEWAY_DATA_DIR=new).returncode == 0


def test_a_newer_database_is_neither_sound_for_this_version_nor_touched(
    run: Run, db: Database, data: Path
) -> None:
    db.close()
    connection = sqlite3.connect(data / "gateway.db")
    connection.execute("UPDATE alembic_version SET version_num = 'zzzz'")
    connection.commit()
    connection.close()
    assert run("check").returncode == 1
    done = run("upgrade")
    assert done.returncode == 2
    assert "newer gateway" in done.stderr


def test_a_server_database_is_left_to_its_own_tools(run: Run, tmp_path: Path) -> None:
    done = run("backup", str(tmp_path / "f"), GATEWAY_DATABASE_URL="postgresql://127.0.0.1/none")
    assert done.returncode == 2
    assert "pg_dump" in done.stderr
