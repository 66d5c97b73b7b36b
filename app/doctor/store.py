"""The store and the settings: whether what is promised can be kept."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from app.backup import check
from app.database import Database, translated
from app.doctor.finding import Finding
from app.errors import GatewayError, StoreUnavailable
from app.filesystem import NO_WAL, file_system_of
from app.schema import current_revision

_ADMINS = (
    "SELECT count(*) FROM api_key WHERE revoked_at IS NULL AND CAST(scopes AS text) LIKE '%admin%'"
)
_WORKERS = "SELECT count(*) FROM worker WHERE heartbeat_at > now() - interval '5 minutes'"


@dataclass(frozen=True, slots=True)
class Stored:
    """What was found in a store.

    Attributes:
        findings: What was looked at.
        newest: Time of the newest job.
        admin_keys: How many keys may administer; None where nobody could look.
    """

    findings: tuple[Finding, ...]
    newest: datetime | None = None
    admin_keys: int | None = None


def look(path: Path, known: Sequence[str]) -> Stored:
    """Look at the SQLite file, and change nothing of it.

    Args:
        path: The file.
        known: This version's schema revisions, oldest first.
    """
    kind = file_system_of(path)
    where = Finding("file system", "ok", f"{path.parent} is {kind}.")
    if kind in NO_WAL:
        advice = "Better a disk of this machine for GATEWAY_DATA_DIR: it is slower there."
        detail = f"{path.parent} is {kind}, where SQLite's WAL cannot work."
        where = Finding("file system", "warn", detail, advice)
    if not path.is_file():
        made = Finding("database", "ok", f"None yet; it is made at the first start: {path}.")
        return Stored((where, made), admin_keys=0)
    try:
        check(path)
        return _read(path, known, where)
    except StoreUnavailable as error:
        advice = "Put a backup back: steadydancer db restore FILE"
        return Stored((where, Finding("database", "fail", error.detail, advice)))
    except sqlite3.Error as error:
        advice = "Check who owns the file, and that the gateway's user may read and write it."
        return Stored((where, Finding("database", "fail", f"{path}: {error}.", advice)))


def look_at_server(url: str, known: Sequence[str]) -> Stored:
    """Look at a store on PostgreSQL, and change nothing of it.

    Args:
        url: SQLAlchemy's.
        known: This version's schema revisions, oldest first.
    """
    parts = sa.make_url(url)
    name = f"{parts.database} on {parts.host or 'a local socket'}"
    database = Database(url)
    try:
        with translated():
            revision = current_revision(database.engine)
            if revision is None:
                made = Finding("database", "ok", f"{name} is empty; the first start makes it.")
                return Stored((made,), admin_keys=0)
            if revision != known[-1]:
                return Stored((_other_schema(name, revision, known),))
            with database.engine.connect() as connection:
                version = connection.execute(sa.text("SHOW server_version")).scalar_one()
                newest = connection.execute(sa.text("SELECT max(created_at) FROM job")).scalar()
                admins = connection.execute(sa.text(_ADMINS)).scalar_one()
                workers = connection.execute(sa.text(_WORKERS)).scalar_one()
    except ImportError:
        advice = "Install the gateway with its extra `fleet`."
        return Stored((Finding("database", "fail", "PostgreSQL's driver is not here.", advice),))
    except GatewayError as error:
        advice = "Check GATEWAY_DATABASE_URL, and that this machine may connect."
        return Stored((Finding("database", "fail", f"{name}: {error.detail}", advice),))
    finally:
        database.close()
    sound = Finding("database", "ok", f"{name}: PostgreSQL {version}, schema {revision}.")
    there = Finding("workers", "ok", f"{workers} reported within five minutes.")
    if not workers:
        advice = "Start `steadydancer worker` on each machine with a GPU (docs/fleet.md)."
        there = Finding("workers", "warn", "None reported within five minutes.", advice)
    return Stored((sound, there), newest=newest, admin_keys=int(admins))


def _read(path: Path, known: Sequence[str], where: Finding) -> Stored:
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=10)
    try:
        mode = str(connection.execute("PRAGMA journal_mode").fetchone()[0])
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        revision = None
        if "alembic_version" in tables:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            revision = None if row is None else str(row[0])
        if revision != known[-1]:
            return Stored((where, _other_schema(path, revision, known)))
        newest = connection.execute("SELECT max(created_at) FROM job").fetchone()[0]
        admins = connection.execute(_ADMINS).fetchone()[0]
    finally:
        connection.close()
    sound = Finding("database", "ok", f"{path} is sound; schema {revision}.")
    journal = Finding("journal", "ok", f"Journal mode {mode}.")
    if mode != "wal" and where.status == "ok":
        detail = f"Journal mode {mode}: WAL did not work on this file system."
        advice = "Writes are slower. Put GATEWAY_DATA_DIR on a disk of this machine."
        journal = Finding("journal", "warn", detail, advice)
    time = None if newest is None else datetime.fromisoformat(str(newest)).replace(tzinfo=UTC)
    return Stored((where, sound, journal), newest=time, admin_keys=int(admins))


def _other_schema(where: Path | str, revision: str | None, known: Sequence[str]) -> Finding:
    detail = f"{where} has schema {revision}, this version {known[-1]}."
    if revision is None or revision in known:
        advice = "It is upgraded at the next start, or by: steadydancer db upgrade"
        return Finding("database", "warn", detail, advice)
    advice = "Start the newer gateway that made it, or restore a backup from before the upgrade."
    return Finding("database", "fail", detail, advice)


def reachable(host: str, *, loopback: bool, admin_keys: int | None, makes_key: bool) -> Finding:
    """Whether others can reach the gateway without a key.

    Args:
        host: What it listens on.
        loopback: Whether only this machine reaches that.
        admin_keys: How many admin keys there are; None where nobody could look.
        makes_key: Whether the first start makes one.
    """
    if loopback:
        return Finding("settings", "ok", f"It listens on {host}, for this machine only.")
    if admin_keys or makes_key:
        return Finding("settings", "ok", f"It listens on {host}, and a key is asked for.")
    if admin_keys is None:
        return Finding("settings", "skip", f"It listens on {host}; no key could be looked for.")
    detail = f"It shall listen on {host}, which others can reach, and there is no admin key."
    advice = (
        "Make one (steadydancer keys create --help), or set GATEWAY_MAKE_FIRST_KEY=true; it does "
        "not start without."
    )
    return Finding("settings", "fail", detail, advice)
