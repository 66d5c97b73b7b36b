"""The states of a job and the table of moves. Pure: it knows neither database nor engine.

`queue.py` has one function for each move, and its WHERE clause repeats the row of this table. A
test holds the two against each other for every state and move.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """Where a job is. The last three are terminal: nothing changes them."""

    QUEUED = "queued"
    """Waits for a turn, for memory or for the engine; `phase` says which."""
    RUNNING = "running"
    """Claimed by an attempt, which may still be staged behind another job in the engine."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


TERMINAL: frozenset[Status] = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELED})
OPEN: frozenset[Status] = frozenset(Status) - TERMINAL


class Move(StrEnum):
    """What can happen to a stored job; each is one function of `queue.py`."""

    CLAIM = "claim"
    START = "start"
    REPORT = "report"
    SUCCEED = "succeed"
    FAIL = "fail"
    REQUEUE = "requeue"
    STOP = "stop"
    CANCEL = "cancel"
    EXPIRE = "expire"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table of moves.

    Attributes:
        before: The statuses in which the move is allowed; in any other it changes nothing.
        after: The status that it leads to; None where it leaves the status as it was.
        fenced: Whether only the current attempt may make it.
    """

    before: frozenset[Status]
    after: Status | None
    fenced: bool


_QUEUED = frozenset({Status.QUEUED})
_RUNNING = frozenset({Status.RUNNING})

MOVES: dict[Move, Rule] = {
    Move.CLAIM: Rule(_QUEUED, Status.RUNNING, fenced=False),
    Move.START: Rule(_RUNNING, None, fenced=True),
    Move.REPORT: Rule(_RUNNING, None, fenced=True),
    Move.SUCCEED: Rule(_RUNNING, Status.SUCCEEDED, fenced=True),
    Move.FAIL: Rule(_RUNNING, Status.FAILED, fenced=True),
    Move.REQUEUE: Rule(_RUNNING, Status.QUEUED, fenced=True),
    Move.STOP: Rule(_RUNNING, Status.CANCELED, fenced=True),
    Move.CANCEL: Rule(_QUEUED, Status.CANCELED, fenced=False),
    Move.EXPIRE: Rule(_QUEUED, Status.FAILED, fenced=False),
}
"""Every move. Canceling a running job is a mark on it; `STOP` is its attempt obeying the mark."""


class Loss(StrEnum):
    """How an attempt can end without the job being at an end."""

    NOT_STARTED = "not-started"
    """The engine never began to execute it."""
    STOPPED_BY_US = "stopped-by-us"
    """The gateway restarted the engine, or stopped, on purpose."""
    FORGOTTEN = "engine-forgot"
    """It was executing, and the engine no longer knows it."""
    ENGINE_DIED = "engine-died"
    """It was executing when the engine's process ended."""
    STALLED = "engine-stalled"
    OUT_OF_MEMORY = "out-of-memory"
    BAD_OUTPUT = "output-missing"
    """The engine called it done, but its video is missing or does not decode."""


@dataclass(frozen=True, slots=True)
class Losses:
    """How often each kind of loss happened to a job."""

    executing: int = 0
    """Times that the engine died or forgot it in mid-run, stalls and bad outputs included."""
    deaths: int = 0
    stalls: int = 0
    out_of_memory: int = 0


@dataclass(frozen=True, slots=True)
class Caps:
    """When to give up.

    Attributes:
        max_attempts: Attempts that were lost while executing, after which the job fails.
        max_stalls: Stalls after which it fails.
        poison_deaths: Deaths of the engine under it after which it is quarantined.
        max_unstarted: Attempts in all after which one that never began ends the job: an engine
            that takes a prompt and dies of it each time must not be fed for ever.
    """

    max_attempts: int = 3
    max_stalls: int = 2
    poison_deaths: int = 2
    max_unstarted: int = 50


@dataclass(frozen=True, slots=True)
class Retry:
    """The job goes back to the queue."""

    losses: Losses
    low_memory: bool
    counted: bool


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The job fails, with this slug of `errors.FAILURES`."""

    failure: str
    losses: Losses


def after_loss(loss: Loss, losses: Losses, *, low_memory: bool, caps: Caps) -> Retry | GiveUp:
    """Say what follows a lost attempt: the whole table of retries.

    Args:
        loss: What happened now.
        losses: What happened to the job before.
        low_memory: Whether the lost attempt already ran with the low-memory settings.
        caps: The operator's bounds.
    """
    if loss in {Loss.NOT_STARTED, Loss.STOPPED_BY_US}:
        return Retry(losses, low_memory, counted=False)
    counted = Losses(
        executing=losses.executing + (loss is not Loss.OUT_OF_MEMORY),
        deaths=losses.deaths + (loss is Loss.ENGINE_DIED),
        stalls=losses.stalls + (loss is Loss.STALLED),
        out_of_memory=losses.out_of_memory + (loss is Loss.OUT_OF_MEMORY),
    )
    if counted.deaths >= caps.poison_deaths:
        return GiveUp("poison-job", counted)
    if loss is Loss.OUT_OF_MEMORY:
        if counted.out_of_memory > 1:
            return GiveUp("out-of-memory", counted)
        return Retry(counted, low_memory=True, counted=True)
    if counted.stalls >= caps.max_stalls:
        return GiveUp("engine-stalled", counted)
    if counted.executing >= caps.max_attempts:
        failure = {Loss.STALLED: "engine-stalled", Loss.BAD_OUTPUT: "output-missing"}
        return GiveUp(failure.get(loss, "engine-died"), counted)
    return Retry(counted, low_memory, counted=True)
