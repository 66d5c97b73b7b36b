"""Which message is sent next, and what becomes of it after a try. Functions for a transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import sqlalchemy as sa
from sqlmodel import Session, col

from app.webhooks import secrets
from app.webhooks.tables import WebhookAttempt, WebhookMessage

ANSWER_CHARACTERS = 2048

Settled = Literal["delivered", "retried", "failed", "gone"]
"""`gone`: the message was deleted, or somebody asked for it again, while it was being sent."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A message to be sent now, and by nobody else until its claim runs out."""

    id: str
    number: int
    until: datetime
    url: str
    target: str
    payload: str
    secrets: tuple[str, ...]
    trace: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Try:
    """What one try came to. No status code means that nothing was answered."""

    at: datetime
    duration_seconds: float
    status_code: int | None = None
    error: str | None = None
    answer: str = ""

    @property
    def succeeded(self) -> bool:
        """Only 2xx is a success; a redirect is a failure."""
        return self.status_code is not None and 200 <= self.status_code < 300


def claim(
    session: Session,
    *,
    room: int,
    per_target: int,
    busy: Mapping[str, int],
    lease: timedelta,
    now: datetime,
) -> list[Claimed]:
    """Take due messages: first one of every target, then a second of each, and so on.

    Args:
        session: Open write transaction.
        room: Most messages to take.
        per_target: Most messages on their way to one target at a time.
        busy: Messages on their way now, by target.
        lease: How long a claim holds if its holder dies.
        now: Messages due by then are taken.
    """
    message = WebhookMessage
    turn = sa.func.row_number().over(
        partition_by=col(message.target), order_by=(col(message.next_attempt_at), col(message.id))
    )
    full = [target for target, count in busy.items() if count >= per_target]
    due = (
        sa.select(col(message.id).label("id"), turn.label("turn"))
        .where(col(message.next_attempt_at) <= now, col(message.target).not_in(full))
        .subquery()
    )
    rows = session.execute(
        sa.select(message, due.c.turn)
        .join(due, due.c.id == col(message.id))
        # Said again of the row itself: another process may have claimed it since.
        .where(due.c.turn <= per_target, col(message.next_attempt_at) <= now)
        .order_by(due.c.turn, col(message.next_attempt_at), col(message.id))
        .limit(room)
        .with_for_update(of=message, skip_locked=True)
    ).all()
    claimed: list[Claimed] = []
    for row, turn_in_target in rows:
        if turn_in_target > per_target - busy.get(row.target, 0):
            continue
        row.attempts += 1
        row.next_attempt_at = now + lease
        session.add(row)
        claimed.append(
            Claimed(
                id=row.id,
                number=row.attempts,
                until=now + lease,
                url=row.url,
                target=row.target,
                payload=row.payload,
                secrets=secrets.signing(session, row.owner, now=now),
                trace=row.trace,
            )
        )
    return claimed


def next_due(session: Session, *, full: list[str]) -> datetime | None:
    """When the next message is due, those to targets that are fully busy aside."""
    earliest: datetime | None = session.execute(
        sa.select(sa.func.min(col(WebhookMessage.next_attempt_at))).where(
            col(WebhookMessage.target).not_in(full)
        )
    ).scalar_one()
    return earliest


def settle(
    session: Session, claimed: Claimed, done: Try, *, retry_at: datetime, now: datetime
) -> Settled:
    """Write a try into the log, and move its message on if the claim still stands.

    Answers other than 2xx are tried again, whatever they are, as Standard Webhooks advises, for
    a wrong 4xx is a receiver being deployed as often as not; only 410 Gone ends it at once.

    Args:
        session: Open write transaction.
        claimed: What was sent.
        done: How it went.
        retry_at: When to try again, if it comes to that.
        now: Time of writing.
    """
    row = session.get(WebhookMessage, claimed.id, with_for_update=True)
    if row is None:
        return "gone"
    session.add(
        WebhookAttempt(
            message_id=claimed.id,
            number=claimed.number,
            at=done.at,
            status_code=done.status_code,
            error=done.error,
            # Whatever a receiver says, its try can be stored: PostgreSQL's texts hold no NUL.
            answer=done.answer[:ANSWER_CHARACTERS].replace("\x00", "\ufffd"),
            duration_seconds=done.duration_seconds,
        )
    )
    if row.next_attempt_at != claimed.until:
        return "gone"
    result: Settled
    if done.succeeded:
        row.state, row.next_attempt_at, row.delivered_at = "delivered", None, now
        result = "delivered"
    elif done.status_code == 410 or retry_at > row.give_up_at:
        row.state, row.next_attempt_at = "failed", None
        result = "failed"
    else:
        row.next_attempt_at = retry_at
        result = "retried"
    session.add(row)
    return result
