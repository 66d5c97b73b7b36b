"""The delivery log, as people see it: list, look, send again, forget."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Session, col, select

from app.errors import NotFound
from app.webhooks.outbox import KEEP_TRYING
from app.webhooks.tables import WebhookAttempt, WebhookMessage


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One try."""

    number: int
    at: datetime
    status_code: int | None
    error: str | None
    answer: str
    duration_seconds: float


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """One message and how far it has come. `attempts` counts tries, also one under way."""

    id: str
    job_id: str
    owner: str | None
    url: str
    event_type: str
    state: str
    created_at: datetime
    next_attempt_at: datetime | None
    delivered_at: datetime | None
    attempts: int


def list_deliveries(
    session: Session,
    *,
    owner: str | None,
    limit: int,
    before: str | None = None,
    job_id: str | None = None,
    state: str | None = None,
) -> tuple[DeliveryView, ...]:
    """Messages, the newest first.

    Args:
        session: Open transaction.
        owner: Only this owner's; None for all.
        limit: Most messages to give.
        before: Id of the last message of the page before.
        job_id: Only about this job.
        state: Only `pending`, `delivered` or `failed`.
    """
    query = select(WebhookMessage).order_by(col(WebhookMessage.id).desc()).limit(limit)
    for column, value in (
        (WebhookMessage.owner, owner),
        (WebhookMessage.job_id, job_id),
        (WebhookMessage.state, state),
    ):
        if value is not None:
            query = query.where(col(column) == value)
    if before is not None:
        query = query.where(col(WebhookMessage.id) < before)
    return tuple(_view(row) for row in session.exec(query))


def get_delivery(
    session: Session, message_id: str, *, owner: str | None
) -> tuple[DeliveryView, tuple[AttemptView, ...]]:
    """A message and its tries, the first try first.

    Raises:
        NotFound: There is no such message, or it is another owner's.
    """
    row = _mine(session, message_id, owner)
    tries = session.exec(
        select(WebhookAttempt)
        .where(WebhookAttempt.message_id == message_id)
        .order_by(col(WebhookAttempt.number))
    )
    return _view(row), tuple(
        AttemptView(
            number=one.number,
            at=one.at,
            status_code=one.status_code,
            error=one.error,
            answer=one.answer,
            duration_seconds=one.duration_seconds,
        )
        for one in tries
    )


def redeliver(
    session: Session, message_id: str, *, owner: str | None, now: datetime
) -> DeliveryView:
    """Send a message again now, whatever became of it, with the same id and bytes.

    Wake the delivery loop after the commit.

    Raises:
        NotFound: There is no such message, or it is another owner's.
    """
    row = _mine(session, message_id, owner)
    row.state, row.delivered_at = "pending", None
    row.next_attempt_at, row.give_up_at = now, now + KEEP_TRYING
    session.add(row)
    session.flush()
    return _view(row)


def sweep(session: Session, *, before: datetime, limit: int = 1000) -> int:
    """Forget messages made before a time, never a pending one, and give their number."""
    old = (
        sa.select(col(WebhookMessage.id))
        .where(col(WebhookMessage.created_at) < before, col(WebhookMessage.state) != "pending")
        .order_by(col(WebhookMessage.created_at))
        .limit(limit)
    )
    gone = sa.delete(WebhookMessage).where(col(WebhookMessage.id).in_(old))
    return session.connection().execute(gone).rowcount


def _mine(session: Session, message_id: str, owner: str | None) -> WebhookMessage:
    row = session.get(WebhookMessage, message_id)
    if row is None or (owner is not None and row.owner != owner):
        raise NotFound(f"There is no webhook delivery with the id {message_id[:64]!r}.")
    return row


def _view(row: WebhookMessage) -> DeliveryView:
    return DeliveryView(
        id=row.id,
        job_id=row.job_id,
        owner=row.owner,
        url=row.url,
        event_type=row.event_type,
        state=row.state,
        created_at=row.created_at,
        next_attempt_at=row.next_attempt_at,
        delivered_at=row.delivered_at,
        attempts=row.attempts,
    )
