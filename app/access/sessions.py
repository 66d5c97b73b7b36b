"""Dashboard sessions: short-lived random tokens for browsers, stored hashed like keys.

A `<video>` and an EventSource cannot send an Authorization header, so the dashboard exchanges a
key for a token in an HttpOnly cookie. A token is a row, not a signed statement: revoking the key
ends it at once, and no server secret has to be kept.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlmodel import Session, col, select

from app.access.keys import caller_of, digest_of
from app.access.scopes import Caller
from app.access.tables import ApiKey, DashboardSession
from app.errors import Unauthorized

PREFIX = "sds_"
"""Every session token begins so, and no API key does."""

LIFETIME = timedelta(hours=12)


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A new session. `token` exists nowhere else."""

    token: str
    expires_at: datetime


def open_session(
    session: Session, *, key_id: str, now: datetime, lifetime: timedelta = LIFETIME
) -> OpenedSession:
    """Make a session for a key that was authenticated just now.

    Raises:
        Unauthorized: The key was revoked in the meantime.
    """
    key = session.get(ApiKey, key_id)
    if key is None or key.revoked_at is not None:
        raise Unauthorized("The API key was revoked.")
    opened = OpenedSession(f"{PREFIX}{secrets.token_urlsafe(32)}", now + lifetime)
    session.add(
        DashboardSession(
            digest=digest_of(opened.token),
            key_id=key_id,
            created_at=now,
            expires_at=opened.expires_at,
        )
    )
    return opened


def resolve(session: Session, token: str, *, now: datetime) -> tuple[Caller, datetime]:
    """The caller behind a token, with the rights its key has now, and when the token expires.

    Raises:
        Unauthorized: The token is unknown or expired, or its key is revoked.
    """
    found = session.exec(
        select(DashboardSession, ApiKey)
        .join(ApiKey, col(ApiKey.id) == col(DashboardSession.key_id))
        .where(
            DashboardSession.digest == digest_of(token),
            DashboardSession.expires_at > now,
            col(ApiKey.revoked_at).is_(None),
        )
    ).one_or_none()
    if found is None:
        raise Unauthorized("The session has ended, or its key was revoked; sign in again.")
    row, key = found
    return caller_of(key), row.expires_at


def close_session(session: Session, token: str) -> None:
    """End a session. Unknown tokens are no error: what is asked for is true already."""
    session.execute(
        sa.delete(DashboardSession).where(col(DashboardSession.digest) == digest_of(token))
    )


def sweep(session: Session, *, now: datetime) -> int:
    """Delete expired sessions and give their number."""
    gone = sa.delete(DashboardSession).where(col(DashboardSession.expires_at) <= now)
    return session.connection().execute(gone).rowcount
