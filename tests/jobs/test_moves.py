"""The table of moves and the SQL agree, for every status and move."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlmodel import Session, SQLModel, col, select, update

from app.database import Database
from app.jobs import queue
from app.jobs.queue import FailureNote, Fence, NewArtifact, NewJob, Report, Usage
from app.jobs.states import MOVES, Caps, Loss, Move, Status
from app.jobs.tables import Job
from app.media.tables import Blob

pytestmark = pytest.mark.both_databases

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NOTE = FailureNote("execution-error", "It broke.")


def new_job(**changes: object) -> NewJob:
    values: dict[str, object] = {
        "workflow": "smoke",
        "owner": None,
        "request": {"prompt": "x"},
        "inputs": {},
        "shape": "smoke/default/64x112x17",
        "formula_mib": 100,
        "low_memory_shape": "smoke/default+low/64x112x17",
        "low_memory_mib": 50,
        **changes,
    }
    return NewJob(**values)  # type: ignore[arg-type]


def stored_blob(session: Session) -> int:
    blob = Blob(sha256=uuid4().hex, bytes=3, chunk_bytes=10, created_at=NOW, touched_at=NOW)
    session.add(blob)
    session.flush()
    assert blob.id is not None
    return blob.id


def put_in(session: Session, status: Status) -> Fence:
    """Make a job and bring it to a status by the front door."""
    job_id = queue.submit(session, new_job(), now=NOW).job_id
    if status == Status.CANCELED:
        queue.cancel(session, job_id, now=NOW)
        return Fence(job_id, 0, str(uuid4()))
    if status == Status.QUEUED:
        return Fence(job_id, 0, str(uuid4()))
    fence = queue.claim(session, job_id, engine="0", attempt_id=str(uuid4()), now=NOW)
    assert fence is not None
    if status == Status.SUCCEEDED:
        video = NewArtifact("video", stored_blob(session), "video/mp4")
        assert queue.succeed(session, fence, artifacts=[video], usage=Usage(), now=NOW)
    if status == Status.FAILED:
        assert queue.fail(session, fence, NOTE, now=NOW)
    return fence


def make(session: Session, move: Move, fence: Fence) -> bool:
    match move:
        case Move.CLAIM:
            attempt_id = str(uuid4())
            made = queue.claim(session, fence.job_id, engine="0", attempt_id=attempt_id, now=NOW)
            return made is not None
        case Move.START:
            return queue.start(session, fence, now=NOW)
        case Move.REPORT:
            return queue.heartbeat(session, fence, Report(fraction=0.5), now=NOW)
        case Move.SUCCEED:
            video = NewArtifact("video", stored_blob(session), "video/mp4")
            return queue.succeed(session, fence, artifacts=[video], usage=Usage(), now=NOW)
        case Move.FAIL:
            return queue.fail(session, fence, NOTE, now=NOW)
        case Move.REQUEUE:
            return queue.lose(session, fence, Loss.NOT_STARTED, NOTE, caps=Caps(), now=NOW)
        case Move.STOP:
            return queue.stop(session, fence, now=NOW)
        case Move.CANCEL:
            return queue.cancel(session, fence.job_id, now=NOW)
        case Move.EXPIRE:
            return queue.expire(session, fence.job_id, NOTE, now=NOW)


def everything(session: Session) -> list[object]:
    """Every row that a move may touch, so that 'nothing was written' can be said."""
    tables = [
        SQLModel.metadata.tables[name] for name in ("job", "attempt", "job_event", "artifact")
    ]
    return [row for table in tables for row in session.execute(sa.select(table)).all()]


@pytest.mark.parametrize("status", list(Status))
@pytest.mark.parametrize("move", list(Move))
async def test_a_move_is_made_exactly_where_the_table_allows_it(
    db: Database, move: Move, status: Status
) -> None:
    fence = await db.write(lambda session: put_in(session, status))
    rule = MOVES[move]
    before = await db.read(everything)

    made = await db.write(lambda session: make(session, move, fence))

    # Canceling a running job is the one mark that is no move: it changes no status.
    marked = move == Move.CANCEL and status == Status.RUNNING
    assert made == (status in rule.before or marked)
    job = await db.read(lambda session: session.exec(select(Job.status)).one())
    expected = rule.after if made and not marked and rule.after is not None else status
    assert job == expected
    if not made:
        assert [row for row in await db.read(everything) if row not in before] == []


@pytest.mark.parametrize("move", [move for move, rule in MOVES.items() if rule.fenced])
async def test_an_attempt_that_was_replaced_changes_nothing(db: Database, move: Move) -> None:
    old = await db.write(lambda session: put_in(session, Status.RUNNING))

    def replace(session: Session) -> None:
        assert queue.lose(session, old, Loss.NOT_STARTED, NOTE, caps=Caps(), now=NOW)
        made = queue.claim(session, old.job_id, engine="0", attempt_id=str(uuid4()), now=NOW)
        assert made is not None

    await db.write(replace)
    before = await db.read(everything)
    assert not await db.write(lambda session: make(session, move, old))
    assert await db.read(everything) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda: {"status": "dancing"},
        lambda: {"status": "succeeded", "finished_at": NOW},
        lambda: {"finished_at": NOW},
        lambda: {"attempt_id": str(uuid4())},
        lambda: {"error": {"type": "x"}},
    ],
)
async def test_the_database_itself_refuses_a_job_that_breaks_an_invariant(
    db: Database, damage: Callable[[], dict[str, object]]
) -> None:
    fence = await db.write(lambda session: put_in(session, Status.QUEUED))

    def write(session: Session) -> None:
        session.exec(update(Job).where(col(Job.id) == fence.job_id).values(**damage()))

    with pytest.raises(sa.exc.IntegrityError):
        await db.write(write)


async def test_progress_never_goes_back_within_an_attempt(db: Database) -> None:
    fence = await db.write(lambda session: put_in(session, Status.RUNNING))
    for fraction in (0.2, 0.7, 0.4):
        report = Report(fraction=fraction)
        await db.write(lambda s, r=report: queue.heartbeat(s, fence, r, now=NOW))  # type: ignore[misc]
    assert await db.read(lambda s: s.exec(select(Job.fraction)).one()) == 0.7
