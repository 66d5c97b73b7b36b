"""The workers' engines, as an API process sees them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import structlog

from app.database import Database
from app.errors import StorageFull, StoreUnavailable
from app.fleet import roster
from app.jobs.stations import EngineState

log = structlog.get_logger(__name__)


class RemoteStations:
    """What the workers last said of their engines.

    `wake` and `cancel` have nothing to do: what changes the queue tells the workers in its own
    transaction.
    """

    def __init__(
        self,
        db: Database,
        *,
        lease: timedelta,
        look_seconds: float = 1.0,
        also: Sequence[Callable[[], Awaitable[None]]] = (),
    ) -> None:
        """Make it; nothing is known yet.

        Args:
            db: The store.
            lease: A worker that has not reported for so long is gone.
            look_seconds: How often to look.
            also: What else is to be read again from time to time.
        """
        self._db = db
        self._lease = lease
        self._look_seconds = look_seconds
        self._also = also
        self._seen: Sequence[EngineState] = ()

    def look(self) -> Sequence[EngineState]:
        """How the engines stood at the last look."""
        return self._seen

    def wake(self) -> None:
        """Nothing to do."""

    def cancel(self, job_id: str) -> None:
        """Nothing to do."""

    async def drain(self, *, draining: bool) -> None:
        """Ask all workers to start no more jobs, or to start them again."""
        await self._db.write(lambda session: roster.drain(session, draining=draining))
        # They obey at their next report; until they have, it is not said of them.

    async def refresh(self) -> None:
        """Look at the workers now."""
        workers = await self._db.read(lambda session: roster.present(session, lease=self._lease))
        self._seen = roster.states(workers)

    async def run(self) -> None:
        """Look at the workers for as long as the process runs."""
        while True:
            try:
                await self.refresh()
                for read in self._also:
                    await read()
            except (StorageFull, StoreUnavailable) as error:
                log.warning("the workers cannot be looked at", reason=error.detail)
            await asyncio.sleep(self._look_seconds)
