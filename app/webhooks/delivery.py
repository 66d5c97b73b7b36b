"""The loop that sends what is in the outbox: at least once, a day long, fair to every target."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from sqlmodel import Session

from app.database import Database
from app.errors import FetchRefused, StorageFull, StoreUnavailable
from app.outbound import Outbound
from app.telemetry import continue_trace, trace_headers
from app.webhooks import claims, signing
from app.webhooks.claims import Claimed, Settled, Try

log = structlog.stdlib.get_logger(__name__)

_FIRST_WAIT = 5.0
_LONGEST_WAIT = 3 * 3600.0
_LONGEST_SLEEP = 5.0
_LEASE_BEYOND_TIMEOUT = timedelta(seconds=15)


def backoff(number: int, rng: random.Random) -> float:
    """Seconds to wait after try `number`: full jitter, a doubling bound, never under one second.

    Full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/) keeps
    the messages that failed together from coming back together.
    """
    bound = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(number - 1, 30))
    return max(1.0, rng.uniform(0, bound))


class Delivery:
    """Sends due messages until it is canceled.

    A message is claimed for little longer than a try can take. Who dies in between leaves it to
    be sent again with the same id: receivers see it once or more, never not at all.

    Args:
        db: The store.
        outbound: The guarded client.
        now: The time, UTC.
        rng: For the jitter.
        concurrency: Most messages on their way at a time.
        per_target: Most of them to one target, so that a slow one does not hold up the rest.
        timeout_seconds: For one try.
        observe: Told what each try came to, and the seconds it took.
    """

    def __init__(
        self,
        *,
        db: Database,
        outbound: Outbound,
        now: Callable[[], datetime],
        rng: random.Random,
        concurrency: int = 16,
        per_target: int = 4,
        timeout_seconds: float = 15,
        observe: Callable[[Settled, float], None] = lambda _outcome, _seconds: None,
    ) -> None:
        self._db = db
        self._outbound = outbound
        self._now = now
        self._rng = rng
        self._concurrency = concurrency
        self._per_target = per_target
        self._timeout = timeout_seconds
        self._observe = observe
        self._busy: Counter[str] = Counter()
        self._wake = asyncio.Event()

    def notify(self) -> None:
        """Look again now: a message was added, or the clock was moved."""
        self._wake.set()

    async def run(self) -> None:
        """Send until canceled. Tries under way are dropped then and made again after a start."""
        async with asyncio.TaskGroup() as tries:
            while True:
                self._wake.clear()
                wait = _LONGEST_SLEEP
                try:
                    claimed = await self._claim()
                    for message in claimed:
                        self._busy[message.target] += 1
                        tries.create_task(self._send(message), name=f"webhook {message.id}")
                    if not claimed:
                        wait = await self._until_due()
                except (StoreUnavailable, StorageFull) as error:
                    log.warning("webhooks wait for the store", detail=error.detail)
                    wait = error.retry_after or _LONGEST_SLEEP
                    claimed = []
                if not claimed:
                    await self._sleep(wait)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _claim(self) -> list[Claimed]:
        room = self._concurrency - self._busy.total()
        if room <= 0:
            return []
        busy = dict(self._busy)
        now = self._now()
        lease = timedelta(seconds=self._timeout) + _LEASE_BEYOND_TIMEOUT

        def work(session: Session) -> list[Claimed]:
            return claims.claim(
                session,
                room=room,
                per_target=self._per_target,
                busy=busy,
                lease=lease,
                now=now,
            )

        # Nothing is promised by a claim: one that a power cut undoes is made again.
        return await self._db.write(work, durable=False) if await self._any_due() else []

    async def _any_due(self) -> bool:
        due = await self._next_due()
        return due is not None and due <= self._now()

    async def _next_due(self) -> datetime | None:
        full = [target for target, count in self._busy.items() if count >= self._per_target]
        return await self._db.read(lambda session: claims.next_due(session, full=full))

    async def _until_due(self) -> float:
        if self._busy.total() >= self._concurrency:
            return _LONGEST_SLEEP  # a try that ends wakes the loop
        due = await self._next_due()
        if due is None:
            return _LONGEST_SLEEP
        return min(_LONGEST_SLEEP, max(0.0, (due - self._now()).total_seconds()))

    async def _send(self, message: Claimed) -> None:
        continue_trace(message.trace)
        try:
            done, wait = await self._try(message)
            await self._settle(message, done, wait)
        except (StoreUnavailable, StorageFull) as error:
            # The claim runs out and the message is sent again: at least once.
            log.warning("webhook outcome not stored", message_id=message.id, detail=error.detail)
        finally:
            self._busy[message.target] -= 1
            if not self._busy[message.target]:
                del self._busy[message.target]
            self.notify()

    async def _try(self, message: Claimed) -> tuple[Try, float]:
        """One try, and the wait that the receiver asked for."""
        at, begun = self._now(), time.monotonic()
        try:
            answer = await self._outbound.post(
                message.url,
                message.payload.encode(),
                {
                    **signing.headers(message.id, message.payload, message.secrets, now=at),
                    **trace_headers(),
                },
                timeout_seconds=self._timeout,
            )
        except FetchRefused as error:
            return Try(at, time.monotonic() - begun, error=error.detail), 0.0
        except Exception:
            # One message that cannot be sent must not stop the others.
            log.exception("webhook could not be sent", message_id=message.id)
            return Try(at, time.monotonic() - begun, error="The gateway could not send it."), 0.0
        seconds = time.monotonic() - begun
        done = Try(at, seconds, status_code=answer.status_code, answer=answer.text)
        return done, min(answer.retry_after or 0.0, _LONGEST_WAIT)

    async def _settle(self, message: Claimed, done: Try, wait: float) -> None:
        now = self._now()
        retry_at = now + timedelta(seconds=max(wait, backoff(message.number, self._rng)))

        def work(session: Session) -> Settled:
            return claims.settle(session, message, done, retry_at=retry_at, now=now)

        outcome = await self._db.write(work)
        self._observe(outcome, done.duration_seconds)
        log.info(
            "webhook tried",
            message_id=message.id,
            attempt=message.number,
            outcome=outcome,
            status_code=done.status_code,
            error=done.error,
        )
