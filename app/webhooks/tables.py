"""The rows behind webhooks: what is to be said, every try to say it, and what it is signed with.

No row refers to a job by foreign key: a job may be deleted while its last message is still on its
way, and the delivery log outlives it.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Field, SQLModel


class WebhookMessage(SQLModel, table=True):
    """One message to one URL. Its id is the `webhook-id` of every try, by which receivers dedupe.

    `next_attempt_at` is also the claim: who takes a message to send it moves the time into the
    future, so a message whose sender died becomes due again by itself.
    """

    __tablename__ = "webhook_message"
    __table_args__ = (
        sa.CheckConstraint(
            "state IN ('pending', 'delivered', 'failed')", name="ck_webhook_message_state"
        ),
        sa.CheckConstraint(
            "(next_attempt_at IS NOT NULL) = (state = 'pending')",
            name="ck_webhook_message_due_iff_pending",
        ),
        sa.CheckConstraint(
            "(delivered_at IS NOT NULL) = (state = 'delivered')",
            name="ck_webhook_message_delivered",
        ),
        sa.Index("ix_webhook_message_due", "next_attempt_at"),
        sa.Index("ix_webhook_message_job", "job_id"),
        sa.Index("ix_webhook_message_owner", "owner", "id"),
        sa.Index("ix_webhook_message_created", "created_at"),
    )

    id: str = Field(primary_key=True, description="`msg_` and a UUIDv7: its order is time's")
    job_id: str
    owner: str | None = Field(default=None, description="API key whose secret signs it")
    url: str = Field(sa_type=sa.Text)
    target: str = Field(description="Scheme, host and port of the URL: what fairness is about")
    event_type: str
    payload: str = Field(sa_type=sa.Text, description="The exact text that is signed and sent")
    trace: dict[str, str] | None = Field(
        default=None, sa_type=sa.JSON(none_as_null=True), description="Trace headers of its job"
    )
    created_at: datetime
    give_up_at: datetime = Field(description="No further try is planned after this")
    next_attempt_at: datetime | None
    attempts: int = 0
    state: str = "pending"
    delivered_at: datetime | None = None


class WebhookAttempt(SQLModel, table=True):
    """One try to deliver a message."""

    __tablename__ = "webhook_attempt"

    message_id: str = Field(
        sa_column=sa.Column(
            sa.String,
            sa.ForeignKey(
                "webhook_message.id", name="fk_webhook_attempt_message", ondelete="CASCADE"
            ),
            primary_key=True,
        )
    )
    number: int = Field(primary_key=True, description="Counts from 1")
    at: datetime
    status_code: int | None = Field(default=None, description="None when nothing was answered")
    error: str | None = Field(default=None, sa_type=sa.Text)
    answer: str = Field(default="", sa_type=sa.Text, description="The first 2,048 characters")
    duration_seconds: float


class WebhookSecret(SQLModel, table=True):
    """A signing secret of an owner. How it is protected: see `secrets.py`."""

    __tablename__ = "webhook_secret"
    __table_args__ = (sa.Index("ix_webhook_secret_owner", "owner", "created_at"),)

    id: str = Field(primary_key=True, description="UUIDv7")
    owner: str | None = Field(default=None, description="API key; None for the loopback caller")
    secret: str = Field(description="`whsec_` and Base64, as the owner was told")
    created_at: datetime
    expires_at: datetime | None = Field(
        default=None, description="Set by a rotation: until then it signs beside the new one"
    )
