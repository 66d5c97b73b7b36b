"""PostgreSQL's part of the store: its connections, its errors, and what must be run again.

Imported only where the store is one. On SQLite one writer at a time means that what a transaction
looked up is still so when it writes. Here another one may have written the same content, or taken
the same name, between the look and the write; the loser is told at its statement, and is run again:
it then sees what the other one wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import psycopg
import sqlalchemy as sa
from psycopg import errors
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm.exc import StaleDataError
from sqlmodel import Session

from app.errors import InvalidRequest, StorageFull, StoreUnavailable

T = TypeVar("T")

_TRIES = 4
"""How often a transaction is run before its error is the caller's."""

_CONNECT_SECONDS = 10
_LOCK_SECONDS = 10
_STATEMENT_SECONDS = 60
"""Bounds, so that nothing waits for a dead peer: to connect, for a lock, for one statement."""

KEEPALIVE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}
"""A peer that vanished without a word is noticed in about 30 s, whoever spoke last."""

_AGAIN = (
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.UniqueViolation,
    errors.ForeignKeyViolation,
)
_AWAY = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    errors.ReadOnlySqlTransaction,  # a standby, until it is promoted or the address moves on
    errors.IdleInTransactionSessionTimeout,
)


_RACED = "Others wrote the same rows at the same moment; nothing was stored."


def make_engine(url: str, *, connections: int) -> Engine:
    """Make the engine; nothing is connected yet.

    Args:
        url: `postgresql+psycopg://…`.
        connections: Most connections of this process's pool.
    """
    options = (
        f"-c lock_timeout={_LOCK_SECONDS}s -c statement_timeout={_STATEMENT_SECONDS}s "
        "-c idle_in_transaction_session_timeout=60s -c timezone=UTC"
    )
    return sa.create_engine(
        url,
        pool_size=connections,
        max_overflow=0,
        pool_pre_ping=True,
        pool_timeout=_CONNECT_SECONDS,
        connect_args={
            "connect_timeout": _CONNECT_SECONDS,
            "options": options,
            "application_name": "steadydancer",
            **KEEPALIVE,
        },
    )


def write(engine: Engine, fn: Callable[[Session], T], *, durable: bool) -> T:
    """Run a transaction, and run it again where another one came first.

    Args:
        engine: The database.
        fn: Plain function without effects outside the session.
        durable: Whether the commit waits until it is on disk.
    """
    for tried in range(1, _TRIES + 1):
        try:
            with Session(engine) as session, session.begin():
                if not durable:
                    session.execute(sa.text("SET LOCAL synchronous_commit = off"))
                return fn(session)
        except DBAPIError as error:
            if tried == _TRIES or not isinstance(error.orig, _AGAIN):
                raise
        except StaleDataError as error:
            # A row that was looked up was deleted before it was written.
            if tried == _TRIES:
                raise StoreUnavailable(_RACED, retry_after=1) from error
    raise AssertionError  # pragma: no cover - the last try returns or raises


def translate(error: DBAPIError) -> Exception:
    """Turn a driver's error into one whose text may be shown; others come back unchanged."""
    original = error.orig
    if isinstance(original, errors.DiskFull):
        return StorageFull(
            "The disk of the gateway's database is full; nothing was stored. "
            "Free space or delete finished jobs, then send the request again.",
            retry_after=60,
        )
    if isinstance(original, errors.LockNotAvailable | errors.QueryCanceled):
        return StoreUnavailable("The database is too busy; nothing was stored.", retry_after=5)
    if isinstance(original, _AGAIN[:2]):
        return StoreUnavailable(_RACED, retry_after=1)
    if isinstance(original, psycopg.DataError):
        return InvalidRequest(
            "The database cannot hold a value of the request: a text with a NUL character, or a "
            "number that is too large."
        )
    if isinstance(original, _AWAY) or error.connection_invalidated:
        return StoreUnavailable("The database server cannot be reached.", retry_after=5)
    return error
