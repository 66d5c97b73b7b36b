"""Jobs whose worker is gone, and jobs that nobody is offered: found and put right, once for all.

What is right is read from the jobs' own rows. Procrastinate finds what a dead worker had fetched;
it may lose sight of a job whose worker's row was pruned, or which two workers finished
(https://github.com/procrastinate-org/procrastinate/issues/1518), so a queued job that nobody could
fetch is offered anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

import sqlalchemy as sa
import structlog
from procrastinate import PsycopgConnector
from procrastinate.exceptions import ConnectorException
from procrastinate.manager import JobManager
from sqlmodel import Session

from app.database import Database
from app.errors import StorageFull, StoreUnavailable
from app.fleet import roster
from app.fleet.connection import conninfo
from app.jobs import distribution
from app.jobs.recovery import release_orphans
from app.jobs.states import Caps
from app.jobs.tables import Job

log = structlog.get_logger(__name__)

_AT_ONCE = 200
_UNOFFERED = sa.text(
    """
    SELECT job.id FROM job
     WHERE job.status = 'queued' AND NOT EXISTS (
        SELECT 1 FROM procrastinate_jobs offered
          LEFT JOIN procrastinate_workers worker ON worker.id = offered.worker_id
         WHERE offered.queueing_lock = job.id AND (offered.status = 'todo' OR
           (offered.status = 'doing' AND worker.last_heartbeat > now() - :lease)))
     ORDER BY job.id LIMIT :most FOR UPDATE OF job SKIP LOCKED
    """
)
_STALE = sa.text("DELETE FROM procrastinate_jobs WHERE queueing_lock = :id AND status <> 'todo'")


class Rescue:
    """Looks after the workers; one process at a time runs it."""

    def __init__(
        self, db: Database, *, caps: Caps, lease: timedelta, now: Callable[[], datetime]
    ) -> None:
        self._db = db
        self._caps = caps
        self._lease = lease
        self._now = now

    async def run(self) -> None:
        """Look for as long as the process leads."""
        connector = PsycopgConnector(conninfo=conninfo(self._db.url), min_size=1, max_size=1)
        await connector.open_async()
        try:
            while True:
                try:
                    await self.look(JobManager(connector))
                except (StorageFull, StoreUnavailable) as error:
                    log.warning("cannot look after the workers", reason=error.detail)
                except ConnectorException as error:
                    log.warning("cannot look after the workers", reason=str(error))
                await asyncio.sleep(self._lease.total_seconds() / 3)
        finally:
            await connector.close_async()

    async def look(self, manager: JobManager) -> None:
        """Put right what is wrong now."""
        released = await self._db.write(self._release)
        if released:
            log.warning("attempts of workers that are gone were requeued", attempts=released)
        lease = self._lease.total_seconds()
        for stalled in await manager.get_stalled_jobs(seconds_since_heartbeat=lease):
            await manager.retry_job(stalled)
        await manager.prune_stalled_workers(lease)
        offered = await self._db.write(self._offer)
        if offered:
            log.warning("jobs that nobody was offered were offered again", jobs=offered)

    def _release(self, session: Session) -> int:
        roster.forget(session)
        alive = roster.present(session, lease=self._lease)
        engines = [name for worker in alive for name in worker.engines]
        return release_orphans(session, engines=engines, caps=self._caps, now=self._now())

    def _offer(self, session: Session) -> int:
        rows = session.connection().execute(_UNOFFERED, {"lease": self._lease, "most": _AT_ONCE})
        ids = list(rows.scalars())
        for job_id in ids:
            session.connection().execute(_STALE, {"id": job_id})
            job = session.get(Job, job_id)
            if job is not None:
                distribution.offer(
                    session,
                    job_id,
                    priority=job.priority,
                    need_mib=job.low_memory_mib if job.low_memory else job.formula_mib,
                    again=True,
                    not_before=job.not_before,
                )
        return len(ids)
