"""In-process wake-ups for long polls and event streams.

The events themselves are rows; this only says that there is something to read. A watcher is
registered before the reader looks at the rows, so a change between look and wait is not missed.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Preview:
    """The latest picture of a running job. Live only: it is never stored."""

    job_id: str
    number: int
    media_type: str
    data: bytes


@dataclass(eq=False, slots=True)
class Watcher:
    """One reader's interest in one job."""

    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self, seconds: float) -> bool:
        """Wait until something changed since the last call, at most so long; say whether."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        return True

    def wake(self) -> None:
        """Say that something changed."""
        self._changed.set()


class Feed:
    """Who waits for which job, and the latest preview of each running one."""

    def __init__(self) -> None:
        self._watchers: defaultdict[str, set[Watcher]] = defaultdict(set)
        self._previews: dict[str, Preview] = {}

    @contextmanager
    def watch(self, job_id: str) -> Iterator[Watcher]:
        """Register a watcher of a job for the length of the block."""
        watcher = Watcher()
        self._watchers[job_id].add(watcher)
        try:
            yield watcher
        finally:
            self._watchers[job_id].discard(watcher)
            if not self._watchers[job_id]:
                del self._watchers[job_id]

    def publish(self, job_id: str) -> None:
        """Wake everybody who watches the job."""
        for watcher in tuple(self._watchers.get(job_id, ())):
            watcher.wake()

    def publish_all(self) -> None:
        """Wake every watcher: the queue moved, or the gateway stops."""
        for job_id in tuple(self._watchers):
            self.publish(job_id)

    def preview(self, job_id: str) -> Preview | None:
        """The latest preview of a running job."""
        return self._previews.get(job_id)

    def show(self, job_id: str, media_type: str, data: bytes) -> None:
        """Keep a preview as the latest and wake the watchers."""
        before = self._previews.get(job_id)
        number = before.number + 1 if before is not None else 1
        self._previews[job_id] = Preview(job_id, number, media_type, data)
        self.publish(job_id)

    def forget(self, job_id: str) -> None:
        """Drop the preview of a job that no longer runs."""
        self._previews.pop(job_id, None)
