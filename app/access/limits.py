"""How much a key may ask for: requests, bytes, queued jobs, open streams."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import (
    MovingWindowRateLimiter,
    RateLimiter,
    SlidingWindowCounterRateLimiter,
)

from app.access.scopes import Caller
from app.errors import RateLimited


class Limiter:
    """Counts for each key, in memory: a restart begins anew. The loopback caller is not counted.

    Args:
        requests_per_minute: Exact, over a moving window.
        upload_bytes_per_hour: Estimated from two fixed windows, since a moving one would keep an
            entry for every byte.
        queued_jobs: Queued jobs a key may have at a time.
        watchers: Event streams and long polls a key may have open at a time.
    """

    def __init__(
        self,
        *,
        requests_per_minute: int,
        upload_bytes_per_hour: int,
        queued_jobs: int,
        watchers: int,
    ) -> None:
        storage = MemoryStorage()
        self._requests = MovingWindowRateLimiter(storage)
        self._bytes = SlidingWindowCounterRateLimiter(storage)
        self._request_limit = RateLimitItemPerMinute(requests_per_minute, namespace="requests")
        self._byte_limit = RateLimitItemPerHour(upload_bytes_per_hour, namespace="bytes")
        self._queued_jobs = queued_jobs
        self._watchers = watchers
        self._watching: Counter[str] = Counter()

    def request(self, caller: Caller) -> None:
        """Count a request.

        Raises:
            RateLimited: The key's requests of this minute are used up.
        """
        if caller.id is None or self._requests.hit(self._request_limit, caller.id):
            return
        raise RateLimited(
            f"More than {self._request_limit.amount:,} requests in a minute with this key.",
            retry_after=_wait(self._requests, self._request_limit, caller.id),
        )

    def upload(self, caller: Caller, size_bytes: int) -> None:
        """Count bytes that a caller is about to send, or has sent.

        Raises:
            RateLimited: They are more than the key has left in this hour; nothing was counted.
        """
        if caller.id is None or size_bytes <= 0:
            return
        if self._bytes.hit(self._byte_limit, caller.id, cost=size_bytes):
            return
        raise RateLimited(
            f"More than {self._byte_limit.amount:,} bytes uploaded in an hour with this key.",
            retry_after=_wait(self._bytes, self._byte_limit, caller.id),
        )

    def may_watch(self, caller: Caller) -> None:
        """Check the open streams and long polls before one more.

        Raises:
            RateLimited: The key has as many as it may.
        """
        if caller.id is not None and self._watching[caller.id] >= self._watchers:
            raise RateLimited(
                f"This key has {self._watchers:,} event streams and long polls open, and may have "
                "no more. Close some, or look without `wait`.",
                retry_after=5,
            )

    @contextmanager
    def watching(self, caller: Caller) -> Iterator[None]:
        """Count a stream or a long poll for as long as the block lasts."""
        if caller.id is None:
            yield
            return
        self._watching[caller.id] += 1
        try:
            yield
        finally:
            self._watching[caller.id] -= 1
            if not self._watching[caller.id]:
                del self._watching[caller.id]

    def queued(self, caller: Caller, queued_now: int) -> None:
        """Check the queue's quota before one more job.

        Args:
            caller: Who submits.
            queued_now: Jobs of this key that are queued.

        Raises:
            RateLimited: The key has as many queued jobs as it may.
        """
        if caller.id is not None and queued_now >= self._queued_jobs:
            raise RateLimited(
                f"This key has {queued_now:,} queued jobs, and may have {self._queued_jobs:,}. "
                "Wait until some have run, or cancel them.",
                retry_after=30,
            )


def _wait(limiter: RateLimiter, limit: RateLimitItem, key_id: str) -> int:
    """Whole seconds until something is free again, at least one."""
    reset = limiter.get_window_stats(limit, key_id).reset_time
    return max(1, math.ceil(reset - time.time()))
