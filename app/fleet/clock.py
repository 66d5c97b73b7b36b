"""The database's time, so that no machine's own clock decides anything."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlmodel import Session

from app.database import Database

_NOW = sa.text("SELECT clock_timestamp()")


class DatabaseClock:
    """Tells the database's time between two looks at it by the monotonic clock."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._seen: tuple[datetime, float] | None = None

    def __call__(self) -> datetime:
        """The time; this machine's own before the first look."""
        if self._seen is None:
            return datetime.now(UTC)
        moment, ticks = self._seen
        return moment + timedelta(seconds=time.monotonic() - ticks)

    async def look(self) -> None:
        """Ask the database. Half of the way there and back is taken off.

        Raises:
            StoreUnavailable: It does not answer.
        """
        before = time.monotonic()
        moment = await self._db.read(_ask)
        after = time.monotonic()
        self._seen = moment, (before + after) / 2


def _ask(session: Session) -> datetime:
    moment: datetime = session.connection().execute(_NOW).scalar_one()
    return moment.astimezone(UTC)
