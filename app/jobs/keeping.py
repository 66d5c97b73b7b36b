"""What to do about a ComfyUI that keeps memory although it was asked to give it back."""

from __future__ import annotations

from dataclasses import dataclass

MOST_ASKED = 3
"""Times that it is asked for one job before something else is tried."""


@dataclass(slots=True)
class Keeping:
    """How long an engine has kept what a job waits for, and what was tried.

    Attributes:
        again_seconds: Pause before it is asked again.
        job_id: The job that waits for it; None if none does.
        asked: How often it was asked while that job waited.
    """

    again_seconds: float
    job_id: str | None = None
    asked: int = 0
    _since: float = 0.0
    _asked_at: float = 0.0
    _restarted: tuple[str, int] | None = None

    def waits(self, job_id: str, *, now: float) -> bool:
        """Note that a job still waits; say whether the engine is to be asked again.

        Args:
            job_id: The job.
            now: Seconds on a monotonic clock.
        """
        if job_id != self.job_id:
            self.job_id, self.asked, self._since, self._asked_at = job_id, 1, now, now
        elif self.asked < MOST_ASKED and now - self._asked_at > self.again_seconds:
            self.asked, self._asked_at = self.asked + 1, now
            return True
        return False

    def is_deaf(self, *, now: float) -> bool:
        """Whether asking has not helped."""
        waited = self.asked >= MOST_ASKED and now - self._asked_at > self.again_seconds
        return self.job_id is not None and waited

    def holds_up(self, *, now: float, backfill_seconds: float) -> bool:
        """Whether others still have to wait behind that job."""
        return not self.is_deaf(now=now) or now - self._since < backfill_seconds

    def may_restart(self, job_id: str, *, life: int) -> bool:
        """Whether a restart was not tried in vain for that job: one each, or it would not end."""
        return self._restarted is None or self._restarted[0] != job_id or self._restarted[1] == life

    def restarts(self, job_id: str, *, life: int) -> None:
        """Note that the engine is to be restarted for that job, and in which life."""
        self._restarted = job_id, life

    def started(self, job_id: str) -> None:
        """Note that a job has started: if it is the one that waited, it does so no more."""
        if job_id == self.job_id:
            self.job_id = None

    def renewed(self) -> None:
        """Note that the engine is another process now."""
        self.job_id = None
