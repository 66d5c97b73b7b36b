"""Jobs whose worker is gone, and jobs that nobody is offered: found and put right, once for all.

What is right is read from the jobs' own rows. Procrastinate prunes the workers that no longer
report; it may lose sight of a job whose worker's row was pruned, or which two workers finished
(https://github.com/procrastinate-org/procrastinate/issues/1518), so the offers of such workers are
deleted, and a queued job without an offer is offered anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

import sqlalchemy as sa
import structlog
from sqlmodel import Session, col, select

from app.database import Database
from app.errors import StorageFull, StoreUnavailable
from app.fleet import roster
from app.jobs import distribution, queue
from app.jobs.recovery import release_orphans
from app.jobs.states import Caps, Status
from app.jobs.tables import Job

log = structlog.get_logger(__name__)

_AT_ONCE = 200
_PRUNE = sa.text("SELECT procrastinate_prune_stalled_workers_v1(:seconds)")
_STALE = sa.text(
    "DELETE FROM procrastinate_jobs"
    " WHERE status <> 'todo' AND (status <> 'doing' OR worker_id IS NULL)"
)
_UNOFFERED = sa.text(
    """
    SELECT id FROM job
     WHERE status = 'queued' AND NOT EXISTS (
        SELECT 1 FROM procrastinate_jobs WHERE queueing_lock = job.id)
     ORDER BY id LIMIT :most FOR UPDATE SKIP LOCKED
    """
)


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
        """Look for as long as the process leads.

        Nobody is taken for gone before the database was there for a whole lease: while it was away
        nobody could report.
        """
        loop = asyncio.get_running_loop()
        lease = self._lease.total_seconds()
        there_since = loop.time()
        while True:
            await asyncio.sleep(lease / 3)
            try:
                await self._db.read(roster.answers)
                if loop.time() - there_since >= lease:
                    await self.look()
            except (StorageFull, StoreUnavailable) as error:
                there_since = loop.time()
                log.warning("cannot look after the workers", reason=error.detail)

    async def look(self) -> None:
        """Put right what is wrong now."""
        released = await self._db.write(self._release)
        if released:
            log.warning("attempts of workers that are gone were requeued", attempts=released)
        offered = await self._db.write(self._offer)
        if offered:
            log.warning("jobs that nobody was offered were offered again", jobs=offered)
        await self._db.write(self._explain, durable=False)

    def _release(self, session: Session) -> int:
        roster.forget(session)
        alive = roster.present(session, lease=self._lease)
        engines = [name for worker in alive for name in worker.engines]
        return release_orphans(session, engines=engines, caps=self._caps, now=self._now())

    def _offer(self, session: Session) -> int:
        run = session.connection().execute
        run(_PRUNE, {"seconds": self._lease.total_seconds()})
        run(_STALE)
        ids = list(run(_UNOFFERED, {"most": _AT_ONCE}).scalars())
        for job_id in ids:
            job = session.get(Job, job_id)
            if job is not None:
                distribution.offer(
                    session,
                    job_id,
                    workflow=job.workflow,
                    owner=job.owner,
                    priority=job.priority,
                    need_mib=job.low_memory_mib if job.low_memory else job.formula_mib,
                    again=True,
                    not_before=job.not_before,
                )
        return len(ids)

    def _explain(self, session: Session) -> int:
        """Say in the jobs that no worker can run now why they wait: no worker says it."""
        ready = [
            one for one in roster.states(roster.present(session, lease=self._lease)) if one.ready
        ]
        runnable = {name for one in ready for name in one.missing if one.can_run(name)}
        waiting = session.exec(
            select(Job.id, Job.workflow)
            .where(
                col(Job.status) == Status.QUEUED,
                col(Job.workflow).not_in(sorted(runnable)),
                col(Job.phase) != "waiting_for_engine",
            )
            .limit(_AT_ONCE)
        ).all()
        for job_id, workflow in waiting:
            reason = f"No worker has all that the workflow {workflow!r} needs."
            if not ready:
                reason = "No worker is there whose engine is ready."
            queue.wait(
                session,
                job_id,
                phase="waiting_for_engine",
                reason=reason,
                vram=None,
                now=self._now(),
            )
        return len(waiting)
