"""Uploads that nobody needs any more."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select
from sqlmodel import Session, col, delete

from app.media.tables import Upload


def sweep_uploads(session: Session, *, now: datetime, ttl: timedelta, in_use: Select[Any]) -> int:
    """Delete the uploads not used for `ttl` that nothing refers to. Their bytes go by the store.

    Args:
        session: A write transaction.
        now: The time.
        ttl: How long an unused upload is kept.
        in_use: Selects the ids of the uploads that something refers to.

    Returns:
        How many were deleted.
    """
    return session.exec(
        delete(Upload).where(col(Upload.last_used_at) < now - ttl, col(Upload.id).not_in(in_use))
    ).rowcount
