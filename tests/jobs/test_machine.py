"""A machine that does anything to jobs in any order, with rights that were lost long ago."""

from __future__ import annotations

import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlmodel import Session, col, select

from app.database import Database
from app.jobs import queue
from app.jobs.queue import FailureNote, Fence, NewArtifact, NewJob, Report, Usage
from app.jobs.states import TERMINAL, Caps, Loss, Status
from app.jobs.tables import Attempt, Job, JobEvent
from app.media.tables import Artifact, Blob
from tests.conftest import empty

NOTE = FailureNote("execution-error", "It broke.")
SHOWS = {
    "job.queued": Status.QUEUED,
    "job.running": Status.RUNNING,
    "job.succeeded": Status.SUCCEEDED,
    "job.failed": Status.FAILED,
    "job.canceled": Status.CANCELED,
}


class Machine(RuleBasedStateMachine):
    jobs: Bundle[str] = Bundle("jobs")
    fences: Bundle[Fence] = Bundle("fences")
    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.db = self.made()
        self.session = Session(self.db.engine)
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.ended: dict[str, str] = {}

    def made(self) -> Database:
        path = self.directory / "gateway.db"
        shutil.copy(self.template, path)
        return Database(f"sqlite:///{path}")

    def teardown(self) -> None:
        self.session.close()
        self.db.close()
        shutil.rmtree(self.directory)

    def tick(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now

    @rule(target=jobs)
    def submit(self) -> str:
        new = NewJob(
            workflow="smoke",
            owner=None,
            request={},
            inputs={},
            shape="smoke/default/64x112x17",
            formula_mib=1,
            low_memory_shape="smoke/default+low/64x112x17",
            low_memory_mib=1,
            max_queue_seconds=100,
        )
        return queue.submit(self.session, new, now=self.tick()).job_id

    @rule(target=fences, job=jobs)
    def claim(self, job: str) -> Fence:
        attempt = str(uuid4())
        fence = queue.claim(self.session, job, engine="0", attempt_id=attempt, now=self.tick())
        return fence or Fence(job, 10_000, attempt)

    @rule(fence=fences)
    def start(self, fence: Fence) -> None:
        queue.start(self.session, fence, now=self.tick())

    @rule(fence=fences, fraction=st.floats(-1, 2))
    def report(self, fence: Fence, fraction: float) -> None:
        queue.heartbeat(self.session, fence, Report(fraction=fraction), now=self.tick())

    @rule(fence=fences)
    def succeed(self, fence: Fence) -> None:
        now = self.tick()
        blob = Blob(sha256=uuid4().hex, bytes=1, chunk_bytes=1, created_at=now, touched_at=now)
        self.session.add(blob)
        self.session.flush()
        assert blob.id is not None
        video = NewArtifact("video", blob.id, "video/mp4")
        queue.succeed(self.session, fence, artifacts=[video], usage=Usage(), now=now)

    @rule(fence=fences)
    def fail(self, fence: Fence) -> None:
        queue.fail(self.session, fence, NOTE, now=self.tick())

    @rule(fence=fences, loss=st.sampled_from(Loss))
    def lose(self, fence: Fence, loss: Loss) -> None:
        queue.lose(self.session, fence, loss, NOTE, caps=Caps(), now=self.tick())

    @rule(job=jobs)
    def cancel(self, job: str) -> None:
        queue.cancel(self.session, job, now=self.tick())

    @rule(fence=fences)
    def stop(self, fence: Fence) -> None:
        queue.stop(self.session, fence, now=self.tick())

    @rule(job=jobs)
    def expire(self, job: str) -> None:
        queue.expire(self.session, job, NOTE, now=self.tick())

    @invariant()
    def terminal_is_for_good(self) -> None:
        for job in self.session.exec(select(Job)).all():
            if job.id in self.ended:
                assert job.status == self.ended[job.id]
            elif job.status in TERMINAL:
                self.ended[job.id] = job.status

    @invariant()
    def the_log_tells_the_status_and_ends_once(self) -> None:
        for job in self.session.exec(select(Job)).all():
            rows = self.session.exec(
                select(JobEvent.type)
                .where(col(JobEvent.job_id) == job.id)
                .order_by(col(JobEvent.id))
            ).all()
            told = [SHOWS[kind] for kind in rows if kind in SHOWS]
            assert told[-1] == job.status
            assert sum(status in TERMINAL for status in told) == (job.status in TERMINAL)

    @invariant()
    def a_video_stands_with_success_and_with_nothing_else(self) -> None:
        made = set(self.session.exec(select(Artifact.job_id)).all())
        done = self.session.exec(select(Job.id).where(col(Job.status) == Status.SUCCEEDED)).all()
        assert made == set(done)

    @invariant()
    def one_attempt_at_most_is_open_and_it_is_the_jobs(self) -> None:
        open_ = self.session.exec(
            select(Attempt.id, Attempt.job_id).where(col(Attempt.finished_at).is_(None))
        ).all()
        running = self.session.exec(
            select(Job.attempt_id, Job.id).where(col(Job.status) == Status.RUNNING)
        ).all()
        assert sorted(open_) == sorted(running)

    @invariant()
    def nothing_is_tried_for_ever(self) -> None:
        for job in self.session.exec(select(Job)).all():
            assert job.lost_executing <= Caps().max_attempts
            assert job.lost_deaths <= Caps().poison_deaths
            assert job.lost_oom <= 2


class SharedMachine(Machine):
    """The same on PostgreSQL, where each queued job is offered once."""

    url: str

    def made(self) -> Database:
        database = Database(self.url)
        empty(database)
        with database.engine.begin() as connection:
            connection.execute(sa.text("TRUNCATE procrastinate_jobs CASCADE"))
        return database

    @invariant()
    def every_queued_job_is_offered_once(self) -> None:
        connection = self.session.connection()
        waiting = sa.text(
            "SELECT id, (SELECT count(*) FROM procrastinate_jobs"
            " WHERE queueing_lock = job.id AND status = 'todo') FROM job WHERE status = 'queued'"
        )
        assert all(count == 1 for _, count in connection.execute(waiting))


@pytest.mark.parametrize(("machine", "examples"), [(Machine, 10), (SharedMachine, 2)])
def test_whatever_happens_the_invariants_hold(
    machine: type[Machine], examples: int, request: pytest.FixtureRequest
) -> None:
    if machine is SharedMachine:
        SharedMachine.url = request.getfixturevalue("migrated_server")
    else:
        Machine.template = request.getfixturevalue("migrated")
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
