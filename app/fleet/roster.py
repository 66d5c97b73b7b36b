"""Which workers there are, how their engines stand, and who may bear a name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
import structlog
from pydantic import TypeAdapter, ValidationError
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import Session, col, select

from app.fleet.tables import Worker
from app.jobs.stations import EngineState

log = structlog.get_logger(__name__)

_STATES: TypeAdapter[list[EngineState]] = TypeAdapter(list[EngineState])
_FORGOTTEN = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Self:
    """A worker's process.

    Attributes:
        name: What it is called; its engines' names begin with it.
        identity: Of its data directory, which one process at a time holds.
        incarnation: Of this process.
        version: The gateway's.
        engines: Names of its engines.
    """

    name: str
    identity: str
    incarnation: str
    version: str
    engines: tuple[str, ...]


def enlist(session: Session, me: Self, *, lease: timedelta) -> bool:
    """Take the worker's name; say whether it was free.

    It is free where nobody has it, where its holder has not reported for a lease, and where the
    holder had the same data directory: only one process at a time can hold that, so it is dead.
    """
    table = Worker.__table__  # type: ignore[attr-defined]
    fresh = {
        "identity": me.identity,
        "incarnation": me.incarnation,
        "version": me.version,
        "engines": list(me.engines),
        "states": [],
        "draining": False,
        "started_at": sa.func.now(),
        "heartbeat_at": sa.func.now(),
    }
    free = sa.or_(table.c.identity == me.identity, table.c.heartbeat_at < sa.func.now() - lease)
    statement = insert(table).values(name=me.name, **fresh)
    statement = statement.on_conflict_do_update(index_elements=["name"], set_=fresh, where=free)
    return session.connection().execute(statement.returning(table.c.name)).first() is not None


def report(session: Session, me: Self, states: Sequence[EngineState]) -> bool | None:
    """Say how the engines stand.

    Returns:
        Whether the worker is to start no more jobs; None if another process has taken its name.
    """
    said: list[Any] = _STATES.dump_python(list(states), mode="json")
    statement = (
        sa.update(Worker)
        .where(col(Worker.name) == me.name, col(Worker.incarnation) == me.incarnation)
        .values(states=said, heartbeat_at=sa.func.now())
        .returning(col(Worker.draining))
    )
    found: bool | None = session.connection().execute(statement).scalar_one_or_none()
    return found


def leave(session: Session, me: Self) -> None:
    """Give the name back: this process ends in order."""
    mine = (col(Worker.name) == me.name, col(Worker.incarnation) == me.incarnation)
    session.connection().execute(sa.delete(Worker).where(*mine))


def present(session: Session, *, lease: timedelta) -> list[Worker]:
    """The workers that reported within a lease, by name."""
    alive = col(Worker.heartbeat_at) >= sa.func.now() - lease
    found = list(session.exec(select(Worker).where(alive).order_by(col(Worker.name))).all())
    session.expunge_all()
    return found


def known(session: Session) -> list[Worker]:
    """All workers of the last day, by name."""
    found = list(session.exec(select(Worker).order_by(col(Worker.name))).all())
    session.expunge_all()
    return found


def states(workers: Sequence[Worker]) -> list[EngineState]:
    """How all their engines stood when they last said so.

    A worker of another version may say it in other words; it works all the same.
    """
    found: list[EngineState] = []
    for worker in workers:
        try:
            found += _STATES.validate_python(worker.states)
        except ValidationError:
            log.warning("what a worker says is not understood", worker=worker.name)
    return found


def answers(session: Session) -> bool:
    """Ask the database for nothing but an answer."""
    return bool(session.connection().execute(sa.text("SELECT true")).scalar_one())


def drain(session: Session, *, draining: bool, name: str | None = None) -> int:
    """Ask one worker, or all, to start no more jobs, or to start them again; say how many."""
    statement = sa.update(Worker).values(draining=draining)
    if name is not None:
        statement = statement.where(col(Worker.name) == name)
    return int(session.connection().execute(statement).rowcount)


def forget(session: Session) -> None:
    """Delete the workers that have not been seen for a day."""
    gone = sa.delete(Worker).where(col(Worker.heartbeat_at) < sa.func.now() - _FORGOTTEN)
    session.connection().execute(gone)
