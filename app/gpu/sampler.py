"""The peak memory of one attempt, sampled in a thread of its own while the attempt runs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self

from app.gpu.card import Card, CardUnreadable, Reading
from app.gpu.engine_memory import EngineMemory

_LARGEST_SHARE = 0.01
"""Of one core. A card whose reading costs more is read less often."""

_SLOWEST_SECONDS = 1.0
_JOIN_SECONDS = 5.0


class Timeline:
    """Memory over time in at most `most` points; each point is the highest of its stretch."""

    def __init__(self, most: int = 600) -> None:
        self._most = most
        self._each = 1
        self._in_last = 0
        self._points: list[tuple[float, int]] = []

    def add(self, seconds: float, mib: int) -> None:
        """Add a sample; halves the resolution of all when the room is used up."""
        if self._points and self._in_last < self._each:
            at, highest = self._points[-1]
            self._points[-1] = (at, max(highest, mib))
            self._in_last += 1
            return
        if len(self._points) == self._most:
            halves = zip(self._points[::2], self._points[1::2], strict=False)
            self._points = [(first[0], max(first[1], second[1])) for first, second in halves]
            self._each *= 2
        self._points.append((seconds, mib))
        self._in_last = 1

    @property
    def points(self) -> list[tuple[float, int]]:
        """`(seconds since the start, MiB)`, in order."""
        return [(round(at, 2), mib) for at, mib in self._points]


class PeakSampler:
    """Measures what ComfyUI's whole process takes at most: `async with PeakSampler(…) as peak`.

    Where ComfyUI's process is known by pid, its own memory is measured. Where it is hidden, it is
    what ComfyUI held at the last look plus the change of the card's used memory since; another
    process that comes or goes meanwhile is then taken for ComfyUI. Where it was not known what it
    held, nothing is measured.

    Attributes:
        samples: How many readings were made.
        unread: How many readings failed.
        cpu_seconds: CPU time that sampling took.
        wall_seconds: Time from start to the last sample.
    """

    def __init__(
        self,
        *,
        card: Card,
        engine: EngineMemory,
        interval_seconds: float = 0.1,
        monotonic: Callable[[], float] = time.monotonic,
        most_points: int = 600,
    ) -> None:
        """Prepare; sampling starts with the `async with` block.

        Args:
            card: The card that the engine runs on.
            engine: What ComfyUI held at the last look.
            interval_seconds: Time between samples; longer if a reading costs too much.
            monotonic: Clock of the timeline.
            most_points: Length of the timeline at most.
        """
        self._card = card
        self._engine = engine
        self._interval_seconds = interval_seconds
        self._monotonic = monotonic
        self._timeline = Timeline(most_points)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vram-sampler", daemon=True)
        self._peak_mib: int | None = None
        self.samples = 0
        self.unread = 0
        self.cpu_seconds = 0.0
        self.wall_seconds = 0.0

    @property
    def peak_mib(self) -> int | None:
        """Highest so far; None before the first sample, or if it cannot be measured."""
        return self._peak_mib

    @property
    def source(self) -> Literal["process", "device"]:
        """How it is measured."""
        return "process" if self._engine.source == "pid" else "device"

    @property
    def timeline(self) -> list[tuple[float, int]]:
        """`(seconds since the start, MiB)`, for drawing."""
        return self._timeline.points

    async def __aenter__(self) -> Self:
        self._thread.start()
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        # A driver that hangs must not hold up the end of an attempt; the thread is a daemon.
        await asyncio.to_thread(self._thread.join, _JOIN_SECONDS)

    def _run(self) -> None:
        started = self._monotonic()
        while True:
            self._sample(started)
            self.cpu_seconds = time.thread_time()
            self.wall_seconds = self._monotonic() - started
            each = self.cpu_seconds / (self.samples + self.unread)
            dear = min(each / _LARGEST_SHARE, _SLOWEST_SECONDS)
            if self._stop.wait(max(self._interval_seconds, dear)):
                # What happened since the last tick may have been the peak.
                self._sample(started)
                return

    def _sample(self, started: float) -> None:
        try:
            reading = self._card.read(light=True)
        except CardUnreadable:
            self.unread += 1
            return
        self.samples += 1
        taken = self._taken(reading)
        if taken is not None:
            self._peak_mib = max(taken, self._peak_mib or 0)
            self._timeline.add(self._monotonic() - started, taken)

    def _taken(self, reading: Reading) -> int | None:
        if self._engine.source == "pid":
            own = [p.mib for p in reading.processes if p.pid in self._engine.pids]
            return sum(mib or 0 for mib in own) if own else None
        held, used = self._engine.held_mib, self._engine.device_used_mib
        if held is None or used is None:
            return None
        return max(0, held + reading.used_mib - used)
