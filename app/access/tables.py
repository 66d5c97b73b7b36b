"""The rows behind access: API keys and the dashboard sessions made from them."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Field, SQLModel


class ApiKey(SQLModel, table=True):
    """One API key. The secret itself is not stored, only its SHA-256.

    A plain hash is right here, where it would not be for a password: the secret has 256 random
    bits, so there is nothing to guess, and a slow hash would cost every request.
    """

    __tablename__ = "api_key"
    __table_args__ = (sa.Index("ix_api_key_created", "created_at"),)

    id: str = Field(primary_key=True, description="The public part of the key")
    name: str
    digest: str = Field(description="SHA-256 of the whole key, lowercase hex")
    scopes: list[str] = Field(sa_type=sa.JSON)
    created_at: datetime
    revoked_at: datetime | None = None
    last_used_at: datetime | None = Field(default=None, description="To the minute, roughly")


class DashboardSession(SQLModel, table=True):
    """A short-lived stand-in for a key, for browsers. Dies with its key."""

    __tablename__ = "dashboard_session"
    __table_args__ = (
        sa.Index("ix_dashboard_session_key", "key_id"),
        sa.Index("ix_dashboard_session_expires", "expires_at"),
    )

    digest: str = Field(primary_key=True, description="SHA-256 of the token, lowercase hex")
    key_id: str = Field(
        sa_column=sa.Column(
            sa.String,
            sa.ForeignKey("api_key.id", name="fk_dashboard_session_key", ondelete="CASCADE"),
            nullable=False,
        )
    )
    created_at: datetime
    expires_at: datetime
