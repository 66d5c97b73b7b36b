"""How an attempt ended, as a value: decided by the runner, written once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import structlog
from sqlmodel import Session

from app.database import Database
from app.errors import StorageFull, StoreUnavailable
from app.jobs import queue
from app.jobs.queue import FailureNote, Fence, NewArtifact, Usage
from app.jobs.states import Caps, Loss

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The video is stored and was checked; one of the artifacts is named `video`."""

    artifacts: Sequence[NewArtifact]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Failed:
    """The job cannot succeed."""

    note: FailureNote
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class Lost:
    """This attempt is lost; the table of retries says what follows."""

    loss: Loss
    note: FailureNote
    usage: Usage = field(default_factory=Usage)
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Stopped:
    """The job was canceled and its prompt is out of the engine."""

    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class NotOurs:
    """Another attempt has taken over: nothing may be written."""


Outcome = Succeeded | Failed | Lost | Stopped | NotOurs


def conclude(
    session: Session,
    fence: Fence,
    outcome: Outcome,
    *,
    caps: Caps,
    log_tail: str | None,
    now: datetime,
) -> bool:
    """Write an outcome, fenced by the attempt. Say whether it was still ours to write."""
    match outcome:
        case Succeeded(artifacts=artifacts, usage=usage):
            return queue.succeed(session, fence, artifacts=artifacts, usage=usage, now=now)
        case Failed(note=note, usage=usage):
            return queue.fail(session, fence, note, usage=usage, log_tail=log_tail, now=now)
        case Lost(loss=loss, note=note, usage=usage, not_before=not_before):
            return queue.lose(
                session,
                fence,
                loss,
                note,
                caps=caps,
                usage=usage,
                log_tail=log_tail,
                not_before=not_before,
                now=now,
            )
        case Stopped(usage=usage):
            return queue.stop(session, fence, usage=usage, now=now)
        case NotOurs():
            return False


async def store(
    db: Database,
    fence: Fence,
    outcome: Outcome,
    *,
    caps: Caps,
    log_tail: str | None = None,
    now: Callable[[], datetime],
) -> None:
    """Write an outcome. A store that cannot be written now is tried again, not given up."""
    delay = 0.2

    def write(session: Session) -> bool:
        return conclude(session, fence, outcome, caps=caps, log_tail=log_tail, now=now())

    while True:
        try:
            written = await db.write(write)
            break
        except (StorageFull, StoreUnavailable) as error:
            log.warning("outcome not stored yet", reason=error.detail)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 10.0)
    log.info("attempt ended", outcome=type(outcome).__name__, written=written)
