"""The secrets that messages are signed with: one for each owner, two while it is being replaced.

Standard Webhooks' symmetric signatures need the secret itself, so it cannot be stored hashed. It
lies in the database as text: who can read the file, or a backup of it, can forge messages to the
receivers (and can read every job besides), so both must be readable by the gateway's user alone.
Encrypting it would move the problem to a key that lies beside the file. A secret is told to its
owner only; it is in no log and no listing.
"""

from __future__ import annotations

import base64
import secrets
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlmodel import Session, col, select
from uuid_utils import compat as uuids

from app.webhooks.tables import WebhookSecret

OVERLAP = timedelta(hours=24)
"""How long a replaced secret still signs, so that receivers can change over."""


def signing(session: Session, owner: str | None, *, now: datetime) -> tuple[str, ...]:
    """The secrets that sign for an owner now, the newest first. Makes one where there is none.

    Args:
        session: Open write transaction.
        owner: API key; None for the loopback caller.
        now: Secrets that expired by then are left out.
    """
    found = session.exec(
        select(WebhookSecret.secret)
        .where(
            col(WebhookSecret.owner) == owner,
            sa.or_(col(WebhookSecret.expires_at).is_(None), col(WebhookSecret.expires_at) > now),
        )
        .order_by(col(WebhookSecret.expires_at).is_(None).desc(), col(WebhookSecret.id).desc())
    ).all()
    return tuple(found) or (_add(session, owner, now),)


def current(session: Session, owner: str | None, *, now: datetime) -> str:
    """The secret that an owner should verify with."""
    return signing(session, owner, now=now)[0]


def rotate(session: Session, owner: str | None, *, now: datetime) -> str:
    """Replace an owner's secret and give the new one. The old one signs too for `OVERLAP`.

    Secrets that were replaced before keep their own end, so at most a day's rotations sign.
    """
    session.execute(
        sa.update(WebhookSecret)
        .where(col(WebhookSecret.owner) == owner, col(WebhookSecret.expires_at).is_(None))
        .values(expires_at=now + OVERLAP)
    )
    return _add(session, owner, now)


def sweep(session: Session, *, now: datetime) -> int:
    """Delete secrets that no longer sign and give their number."""
    gone = sa.delete(WebhookSecret).where(col(WebhookSecret.expires_at) <= now)
    return session.connection().execute(gone).rowcount


def _add(session: Session, owner: str | None, now: datetime) -> str:
    # 24 to 64 random bytes in Base64 behind this prefix: the Standard Webhooks specification.
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode("ascii")
    session.add(WebhookSecret(id=str(uuids.uuid7()), owner=owner, secret=secret, created_at=now))
    session.flush()
    return secret
