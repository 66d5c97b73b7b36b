"""A clock that moves only when it is told to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 1, tzinfo=UTC)


class ManualClock:
    """Time as a test or a demonstration wants it.

    It can be called, so it goes wherever `now: Callable[[], datetime]` is asked for.
    """

    def __init__(self, start: datetime = START) -> None:
        """Set the clock.

        Args:
            start: The first moment, with a time zone.

        Raises:
            ValueError: The moment has no time zone.
        """
        if start.tzinfo is None:
            raise ValueError("the start of a clock needs a time zone")
        self._now = start

    def now(self) -> datetime:
        """The moment it shows, aware of its time zone."""
        return self._now

    def __call__(self) -> datetime:
        """The same as `now()`."""
        return self._now

    def seconds(self) -> float:
        """Seconds since 1970, where a plain number is asked for."""
        return self._now.timestamp()

    def advance(self, seconds: float) -> datetime:
        """Move it forward and tell the new moment.

        Raises:
            ValueError: The step is negative: time does not go back.
        """
        if seconds < 0:
            raise ValueError("a clock is not moved back")
        self._now += timedelta(seconds=seconds)
        return self._now
