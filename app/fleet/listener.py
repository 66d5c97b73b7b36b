"""What other processes did to jobs, as it happens: PostgreSQL's NOTIFY."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psycopg
import structlog
from psycopg import sql

from app.fleet.connection import connect
from app.jobs.distribution import CANCEL, CHANGED

log = structlog.get_logger(__name__)

_PROBE_SECONDS = 10.0
_ANSWER_SECONDS = 10.0
_RECONNECT_SECONDS = 1.0


class Listener:
    """Hears of changed jobs and of jobs to be canceled."""

    def __init__(
        self,
        url: str,
        *,
        on_change: Callable[[str], None],
        on_cancel: Callable[[str], None],
        on_gap: Callable[[], None],
    ) -> None:
        """Make it; nothing is connected yet.

        Args:
            url: The store's.
            on_change: Called with each job that changed.
            on_cancel: Called with each job that is marked to be canceled.
            on_gap: Called after a time in which something may have been missed.
        """
        self._url = url
        self._on_change = on_change
        self._on_cancel = on_cancel
        self._on_gap = on_gap

    async def run(self) -> None:
        """Listen for as long as the process runs; connect again when the server was away."""
        while True:
            try:
                await self._listen()
            except (psycopg.Error, OSError) as error:
                log.warning("not listening to the database", reason=str(error))
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _listen(self) -> None:
        async with await connect(self._url) as connection:
            for channel in (CHANGED, CANCEL):
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            self._on_gap()
            while True:
                async for heard in connection.notifies(timeout=_PROBE_SECONDS):
                    if heard.channel == CANCEL:
                        self._on_cancel(heard.payload)
                    else:
                        self._on_change(heard.payload)
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await connection.execute("SELECT 1")
