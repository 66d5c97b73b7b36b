"""Copies of the SQLite store: made while the gateway runs, checked, and put back."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path

from app.errors import StoreUnavailable

_BUSY_SECONDS = 30.0
"""How long to wait for a database that another process holds."""


def backup(source: Path, target: Path) -> int:
    """Write a consistent copy of a database that may be in use, and check it.

    The copy is made in one read transaction, which in WAL mode holds up nobody, beside the target
    and renamed when it is whole: a target that exists is either the old one or a good new one.

    Returns:
        Size of the copy in bytes.

    Raises:
        StoreUnavailable: The source is not there or damaged, or the copy cannot be written.
    """
    if not source.is_file():
        raise StoreUnavailable(f"There is no database at {source}.")
    unfinished = target.with_name(f"{target.name}.partial")
    unfinished.unlink(missing_ok=True)
    try:
        with (
            _opened(source, "ro") as original,
            _opened(unfinished, "rwc") as copy,
        ):
            original.backup(copy, pages=-1)
            copy.execute("PRAGMA journal_mode=DELETE")
        check(unfinished)
        _sync(unfinished)
        unfinished.replace(target)
        _sync(target.parent)
    except (sqlite3.Error, OSError) as error:
        unfinished.unlink(missing_ok=True)
        raise StoreUnavailable(f"The backup failed: {error}.") from error
    return target.stat().st_size


def outside(path: Path) -> tuple[int, int]:
    """Count the media files that a database only names, because they lie in object storage.

    Returns:
        How many there are, and their bytes.

    Raises:
        StoreUnavailable: The database cannot be read.
    """
    try:
        with _opened(path, "ro") as database:
            columns = {row[1] for row in database.execute("PRAGMA table_info(blob)")}
            if "object_key" not in columns:
                return 0, 0  # of a version that knew no object storage
            found = database.execute(
                "SELECT count(*), coalesce(sum(bytes), 0) FROM blob WHERE object_key IS NOT NULL"
            ).fetchone()
    except sqlite3.Error as error:
        raise StoreUnavailable(f"The database {path} is damaged: {error}.") from error
    return int(found[0]), int(found[1])


def restore(copy: Path, target: Path) -> None:
    """Put a backup in the place of the database. The gateway must not run.

    What was there is kept beside it with the suffix `.before-restore`.

    Raises:
        StoreUnavailable: The backup is not there or damaged.
    """
    check(copy)
    staged = target.with_name(f"{target.name}.restored")
    staged.unlink(missing_ok=True)
    backup(copy, staged)
    if target.exists():
        # Its own log belongs to it: brought in first, so that nothing committed is left out.
        with suppress(sqlite3.Error), _opened(target, "rw") as old:
            old.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # one too damaged for it is put aside
        target.replace(target.with_name(f"{target.name}.before-restore"))
    for suffix in ("-wal", "-shm"):
        target.with_name(target.name + suffix).unlink(missing_ok=True)
    staged.replace(target)
    _sync(target.parent)


def check(path: Path) -> None:
    """Read a whole database and refuse a damaged one.

    Raises:
        StoreUnavailable: It is not there, no database, damaged, or held by another process.
    """
    if not path.is_file():
        raise StoreUnavailable(f"There is no database at {path}.")
    try:
        with _opened(path, "ro") as database:
            answer = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in {
            sqlite3.SQLITE_BUSY,
            sqlite3.SQLITE_LOCKED,
        }:
            raise StoreUnavailable(f"Another process holds the database {path}.") from error
        raise StoreUnavailable(f"The database {path} is damaged: {error}.") from error
    if answer != "ok":
        raise StoreUnavailable(f"The database {path} is damaged: {answer}.")


class _opened:  # noqa: N801 - reads as a word in a with statement
    """A connection that is closed at the end: sqlite3's own context manager only commits."""

    def __init__(self, path: Path, mode: str) -> None:
        self._uri = f"{path.resolve().as_uri()}?mode={mode}"

    def __enter__(self) -> sqlite3.Connection:
        self._connection = sqlite3.connect(
            self._uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None
        )
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
