"""The store: one engine behind two verbs. The only file that knows which database it is.

A transaction is a plain function that takes a session. Nothing can be awaited inside it, so no
transaction ever spans an await. SQLite has one writer thread; transactions that wait for it at the
same moment share one commit (each behind its own savepoint), so that sixteen clients pay for one
fsync instead of sixteen. A store on PostgreSQL has as many writers as threads: `app/postgres.py`.
"""

from __future__ import annotations

import asyncio
import functools
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, QueuePool
from sqlmodel import Session

from app.errors import StorageFull, StoreUnavailable
from app.filesystem import NO_WAL, file_system_of

T = TypeVar("T")

_BUSY_TIMEOUT_MS = 10_000
_PAGE_BYTES = 16_384
"""SQLite's usual 4 KiB make a megabyte of video 256 lookups. Measured on two cores with 1 MiB
chunks: read at 709 MB/s and written at 204 with pages of 4 KiB, at 1,524 and 335 with these;
submissions a second were the same within the noise."""

_CACHE_KIB = 2_000
"""For each connection. The kernel caches the file; a larger cache here fills with pages of videos,
which nobody reads twice: 8,000 made downloads grow the process by 23 MiB in place of 10."""

_MOST_SHARED = 64
"""How many waiting transactions may share one commit."""


@dataclass(frozen=True, slots=True)
class _Work:
    fn: Callable[[Session], Any]
    durable: bool
    done: Future[Any]


@dataclass(frozen=True, slots=True)
class _Answer:
    done: Future[Any]
    result: Any
    failure: Exception | None


def translate(error: DBAPIError) -> Exception:
    """Turn a driver's error into one whose text may be shown; others come back unchanged."""
    original = error.orig
    if not isinstance(original, sqlite3.Error):
        from app import postgres  # noqa: PLC0415 - its driver is there only where it is used

        return postgres.translate(error)
    code = getattr(original, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return StorageFull(
            "The disk that holds the gateway's database is full; nothing was stored. "
            "Free space or delete finished jobs, then send the request again.",
            retry_after=60,
        )
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StoreUnavailable(
            "Another process holds the database; nothing was stored.", retry_after=5
        )
    if code in {
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
    }:
        return StoreUnavailable(
            "The database file cannot be used; the gateway's log has the reason.",
            retry_after=30,
        )
    if error.connection_invalidated:
        return StoreUnavailable("The connection to the database was lost.", retry_after=5)
    return error


@contextmanager
def translated() -> Iterator[None]:
    """Raise the gateway's own errors for what the driver reports."""
    try:
        yield
    except DBAPIError as error:
        better = translate(error)
        if better is error:
            raise
        raise better from error


class Database:
    """One database, opened with `open()` and used through `read` and `write`.

    Raises (from every verb):
        StorageFull: The disk is full; the transaction left nothing.
        StoreUnavailable: The database is locked, damaged or out of reach.
    """

    def __init__(self, url: str, *, readers: int = 4) -> None:
        self.url = url
        self._readers = readers
        self._is_sqlite = sa.make_url(url).get_backend_name() == "sqlite"
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._hot: Connection | None = None
        self._engine: Engine | None = None
        self.journal_mode = "none"

    # --- life ------------------------------------------------------------------------------

    @property
    def path(self) -> Path | None:
        """The SQLite file; None for a server database."""
        name = sa.make_url(self.url).database
        return Path(name) if self._is_sqlite and name else None

    @property
    def engine(self) -> Engine:
        """The SQLAlchemy engine, for migrations and backup only."""
        if self._engine is None:
            self._engine = self._make_engine()
        return self._engine

    def open(self) -> None:
        """Connect, choose the journal mode, start the writer. The schema must be there."""
        with translated():
            if self._is_sqlite:
                self.journal_mode = self._choose_journal_mode()
            self._pool = ThreadPoolExecutor(self._readers, thread_name_prefix="db-read")
            if self._is_sqlite:
                self._hot = self.engine.connect()
                self._thread = threading.Thread(
                    target=self._write_loop, name="db-write", daemon=True
                )
                self._thread.start()

    def close(self) -> None:
        """Finish the writes already asked for and close every connection."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        if self._hot is not None:
            self._hot.close()
            self._hot = None
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    # --- verbs -----------------------------------------------------------------------------

    async def look(self, statement: str, values: Mapping[str, str]) -> Sequence[Any] | None:
        """The one row of a cheap SELECT by primary key, as the driver gives it; None without one.

        On SQLite it runs on the event loop itself and without SQLAlchemy, which takes ten times as
        long as such a lookup.

        Args:
            statement: SQL that both databases take, with parameters as `:name`.
            values: The parameters.
        """
        if self._hot is None:

            def one(session: Session) -> Sequence[Any] | None:
                return session.connection().execute(sa.text(statement), values).one_or_none()

            return await self.read(one)
        raw = self._hot.connection.driver_connection
        if not isinstance(raw, sqlite3.Connection):
            raise TypeError("only SQLite is read on the event loop")
        try:
            rows = raw.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise translate(DBAPIError(statement, values, error)) from error
        return rows[0] if rows else None

    async def read(self, fn: Callable[[Session], T], *, hot: bool = False) -> T:
        """Run `fn` in a read transaction and give its result.

        Args:
            fn: Plain function; must not write.
            hot: Run on the event loop itself. Only for a lookup by primary key: it avoids the
                two thread switches that cost more than the lookup, and blocks the loop meanwhile.
        """
        if hot and self._hot is not None:
            with translated(), self._hot.begin(), Session(self._hot) as session:
                return fn(session)
        if self._pool is None:
            raise StoreUnavailable("The store is not open.")
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._read, fn)

    async def write(self, fn: Callable[[Session], T], *, durable: bool = True) -> T:
        """Run `fn` in a write transaction, commit it, and give its result.

        If `fn` raises, nothing of it is kept and the error is raised here. The result must not
        be a live table object: a session's objects end with it.

        Args:
            fn: Plain function without effects outside the session: it may be run again. It may
                run beside other functions in one commit, never mixed with them.
            durable: Whether the commit must survive a power cut, as everything promised to a
                client must. Progress and media chunks need not.
        """
        if not self._is_sqlite:
            if self._pool is None:
                raise StoreUnavailable("The store is not open.")
            run = functools.partial(self._write, fn, durable=durable)
            return await asyncio.get_running_loop().run_in_executor(self._pool, run)
        if self._thread is None:
            raise StoreUnavailable("The store is not open.")
        done: Future[T] = Future()
        self._queue.put(_Work(fn, durable, done))
        return await asyncio.wrap_future(done)

    async def reclaim(self, pages: int = 2_000) -> bool:
        """Give deleted pages back to the file system, a bounded number at a time.

        Returns:
            Whether there are more.
        """
        return self.path is not None and await asyncio.to_thread(self._reclaim, pages)

    def _reclaim(self, pages: int) -> bool:
        # The pragma frees one page at each step. `execute` makes a single step of a statement
        # without columns; only `executescript` makes them all.
        with translated(), self.engine.connect() as connection:
            raw = connection.connection.driver_connection
            if not isinstance(raw, sqlite3.Connection):
                return False
            before = int(raw.execute("PRAGMA freelist_count").fetchone()[0])
            raw.executescript(f"PRAGMA incremental_vacuum({pages})")
            left = int(raw.execute("PRAGMA freelist_count").fetchone()[0])
            return 0 < left < before

    # --- one place for each kind of transaction ----------------------------------------------

    def _read(self, fn: Callable[[Session], T]) -> T:
        with translated(), Session(self.engine) as session:
            return fn(session)

    def _write(self, fn: Callable[[Session], T], *, durable: bool) -> T:
        from app import postgres  # noqa: PLC0415 - as in `translate`

        with translated():
            return postgres.write(self.engine, fn, durable=durable)

    def _write_loop(self) -> None:
        connection = self.engine.connect().execution_options(writer=True)
        synchronous = ""
        open_ = True
        while open_:
            batch: list[_Work] = []
            work = self._queue.get()
            while work is not None:
                batch.append(work)
                if len(batch) == _MOST_SHARED or self._queue.empty():
                    break
                work = self._queue.get()
            open_ = work is not None
            if not batch:
                continue
            wanted = "FULL" if any(work.durable for work in batch) else "NORMAL"
            if self.journal_mode != "wal":
                wanted = "FULL"
            if wanted != synchronous:
                _pragma(connection, f"synchronous={wanted}")
                synchronous = wanted
            _run_batch(connection, batch)
        connection.close()

    # --- SQLite ------------------------------------------------------------------------------

    def _make_engine(self) -> Engine:
        if not self._is_sqlite:
            from app import postgres  # noqa: PLC0415 - as in `translate`

            return postgres.make_engine(self.url, connections=self._readers + 2)
        in_file = self.path is not None
        if self.path is not None and not self.path.exists():
            _make_file(self.path)
        engine = sa.create_engine(
            self.url,
            poolclass=QueuePool if in_file else NullPool,
            pool_size=self._readers + 2,
            connect_args={"check_same_thread": False, "timeout": _BUSY_TIMEOUT_MS / 1000},
        )
        sa.event.listen(engine, "connect", _prepare_connection)
        sa.event.listen(engine, "begin", _begin)
        return engine

    def _choose_journal_mode(self) -> str:
        """WAL where it can work, else a rollback journal."""
        path = self.path
        if path is None:
            return "memory"
        network = file_system_of(path.parent) in NO_WAL
        with self.engine.connect() as connection:
            mode = _pragma(connection, "journal_mode=" + ("TRUNCATE" if network else "WAL"))
            if str(mode).lower() not in {"wal", "truncate"}:
                mode = _pragma(connection, "journal_mode=TRUNCATE")
            return str(mode).lower()


def _make_file(path: Path) -> None:
    """Begin a database: its first table decides the pages' size, and that free ones go back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = sqlite3.connect(path, isolation_level=None)
    try:
        made.execute(f"PRAGMA page_size={_PAGE_BYTES}")
        made.execute("PRAGMA auto_vacuum=INCREMENTAL")
        made.execute("VACUUM")
    finally:
        made.close()


def _prepare_connection(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # SQLAlchemy's own begin event decides when to begin
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
    cursor.close()


def _begin(connection: Connection) -> None:
    # A deferred transaction that reads and then writes fails at once when another process wrote
    # in between, and no busy timeout covers that; so a writer takes the lock first.
    writer = connection.get_execution_options().get("writer", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writer else "BEGIN")


def _pragma(connection: Connection, text: str) -> Any:  # noqa: ANN401 - a pragma answers anything
    """Run a pragma outside a transaction, where several of them are silently ignored."""
    raw = connection.connection.driver_connection
    if not isinstance(raw, sqlite3.Connection):
        raise TypeError("pragmas are SQLite's")
    row = raw.execute(f"PRAGMA {text}").fetchone()
    return row[0] if row else None


def _run_batch(connection: Connection, batch: Sequence[_Work]) -> None:
    """Commit all work of a batch together; what raised is rolled back to its savepoint."""
    # From here on nobody can cancel: who waits gets an answer, and the thread never meets a future
    # that was ended by somebody else.
    batch = [work for work in batch if work.done.set_running_or_notify_cancel()]
    answers: list[_Answer] = []
    try:
        with translated(), connection.begin():
            answers = [_run_one(connection, work) for work in batch]
    except Exception as error:  # noqa: BLE001 - nothing was committed: every caller must know
        for work in batch:
            work.done.set_exception(error)
        return
    for answer in answers:
        if answer.failure is None:
            answer.done.set_result(answer.result)
        else:
            answer.done.set_exception(answer.failure)


def _run_one(connection: Connection, work: _Work) -> _Answer:
    """Run one piece of work behind its savepoint.

    Raises:
        Exception: The store itself failed. SQLite then rolls back the whole transaction on its
            own (https://sqlite.org/lang_transaction.html, section 3), so that nobody in the batch
            has anything.
    """
    try:
        with (
            Session(connection, join_transaction_mode="create_savepoint") as session,
            session.begin(),
        ):
            return _Answer(work.done, work.fn(session), None)
    except Exception as error:
        raw = connection.connection.driver_connection
        if isinstance(raw, sqlite3.Connection) and not raw.in_transaction:
            raise _cause(error) from error
        shown = translate(error) if isinstance(error, DBAPIError) else error
        return _Answer(work.done, None, shown)


def _cause(error: BaseException) -> Exception:
    """Find the driver's own error behind those that its rollback brought about."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, DBAPIError) and (better := translate(found)) is not found:
            return better
        found = found.__context__
    return StoreUnavailable(
        "The database gave up the transaction; nothing was stored.", retry_after=5
    )
