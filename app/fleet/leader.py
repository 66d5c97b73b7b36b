"""What must be done once for all processes: done by whoever holds one lock of the database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import psycopg
import structlog

from app.fleet.connection import connect

log = structlog.get_logger(__name__)

_LOCK = "SELECT pg_try_advisory_lock(7356291, 2)"
_LEAVE = "SET idle_session_timeout = '20s'"
"""A leader that is frozen keeps its connection, and with it the lock: the server ends it."""

_RETRY_SECONDS = 2.0
_ANSWER_SECONDS = 10.0

Loop = Callable[[], Awaitable[None]]


class Leader:
    """Runs loops for as long as this process holds the lock.

    The lock is the connection's: when it is lost, so is the lock, and the loops are stopped before
    another process can have begun its own for longer than one look takes.
    """

    def __init__(self, url: str, loops: Sequence[Loop]) -> None:
        self._url = url
        self._loops = loops
        self.leading = False

    async def run(self) -> None:
        """Wait for the lock, lead, and wait again, for as long as the process runs.

        Raises:
            Exception: A loop crashed.
        """
        while True:
            try:
                async with await connect(self._url) as connection:
                    if await self._locked(connection):
                        await self._lead(connection)
            except (psycopg.Error, OSError, TimeoutError) as error:
                log.warning("no leader here: the database is away", reason=str(error))
            await asyncio.sleep(_RETRY_SECONDS)

    async def _locked(self, connection: psycopg.AsyncConnection) -> bool:
        async with asyncio.timeout(_ANSWER_SECONDS):
            await connection.execute(_LEAVE)
            row = await (await connection.execute(_LOCK)).fetchone()
        return row is not None and bool(row[0])

    async def _lead(self, connection: psycopg.AsyncConnection) -> None:
        log.info("this process sweeps, sends webhooks and looks after the workers")
        self.leading = True
        tasks = [asyncio.ensure_future(loop()) for loop in self._loops]
        try:
            while True:
                done, _ = await asyncio.wait(
                    tasks, timeout=_RETRY_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    task.result()
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await connection.execute("SELECT 1")
        finally:
            self.leading = False
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
