"""A real receiver that keeps what it is sent, and a delivery loop that runs beside the test."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlmodel import Session

from app.database import Database
from app.outbound import Outbound
from app.webhooks import outbox
from app.webhooks.delivery import Delivery


@dataclass(frozen=True)
class Received:
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """Answers with `status` and `answer`; holds its answers while `gate` is closed."""

    url: str = ""
    status: int = 200
    answer: bytes = b"ok"
    head: str = ""
    received: list[Received] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    now_open: int = 0
    most_open: int = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.now_open += 1
        self.most_open = max(self.most_open, self.now_open)
        try:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:-2]
            headers = {
                name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)
            }
            body = await reader.readexactly(int(headers["content-length"]))
            self.received.append(Received(headers, body))
            await self.gate.wait()
            writer.write(
                f"HTTP/1.1 {self.status} X\r\nContent-Length: {len(self.answer)}\r\n"
                f"{self.head}\r\n".encode()
                + self.answer
            )
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            self.now_open -= 1
            writer.close()


@pytest.fixture
def receivers() -> Callable[..., Any]:
    """Start one receiver for each time it is entered."""

    @asynccontextmanager
    async def start(status: int = 200, *, held: bool = False) -> AsyncIterator[Receiver]:
        made = Receiver(status=status)
        if not held:
            made.gate.set()
        server = await asyncio.start_server(made.handle, "127.0.0.1", 0)
        made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
        try:
            yield made
        finally:
            made.gate.set()
            server.close()

    return start


@pytest.fixture
async def receiver(receivers: Callable[..., Any]) -> AsyncIterator[Receiver]:
    async with receivers() as made:
        yield made


class SkewedClock:
    """The real time, moved ahead by hand: signatures are verified against the real time."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def advance(self, seconds: float) -> None:
        self.ahead += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> SkewedClock:
    return SkewedClock()


@pytest.fixture
async def outbound() -> AsyncIterator[Outbound]:
    made = Outbound(allow_private=True)
    yield made
    await made.aclose()


@pytest.fixture
def deliver(db: Database, outbound: Outbound, clock: SkewedClock) -> Callable[..., Any]:
    """Run a delivery loop for the length of a `with`."""

    @asynccontextmanager
    async def running(**options: Any) -> AsyncIterator[Delivery]:
        delivery = Delivery(
            **{
                "db": db,
                "outbound": outbound,
                "now": clock,
                "rng": random.Random(7),
                "timeout_seconds": 5,
                **options,
            }
        )
        task = asyncio.create_task(delivery.run())
        try:
            yield delivery
        finally:
            assert not task.done(), task
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    return running


async def put(
    db: Database, clock: Callable[[], datetime], url: str, *, owner: str | None = "k", n: int = 1
) -> None:
    """Enqueue `n` messages in one transaction."""

    def work(session: Session) -> None:
        for number in range(n):
            outbox.enqueue(
                session,
                job_id=f"job-{number}",
                owner=owner,
                url=url,
                event_type="job.succeeded",
                payload={"type": "job.succeeded", "data": {"n": number, "text": 'é"{{x}}\ud83d'}},
                now=clock(),
            )

    await db.write(work)


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 60) -> None:
    """Wait until a condition holds, or fail."""
    async with asyncio.timeout(seconds):
        while True:
            held = condition()
            if held if isinstance(held, bool) else await held:
                return
            await asyncio.sleep(0.01)


def parsed(received: Received) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(received.body)
    return body
