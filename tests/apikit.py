"""A whole gateway without an engine: jobs are taken in and wait. And one behind a real socket."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI
from sqlmodel import Session

from app.access import keys
from app.access.scopes import Scope
from app.api.app import make_api
from app.api.connection import Connection
from app.api.services import HttpLimits
from app.gateway import Gateway
from app.jobs import queue
from app.jobs.queue import Fence, NewArtifact, Usage
from app.main import create_app
from app.settings import Settings

NOBODY = "http://127.0.0.1:9"
"""Where no engine answers: the discard port."""


@dataclass
class World:
    """A running gateway and ways to reach into it."""

    gateway: Gateway
    app: FastAPI
    http: httpx.AsyncClient
    photo: bytes
    dance: bytes
    made: dict[str, Any] = field(default_factory=dict)

    async def upload(self, data: bytes, **headers: str) -> dict[str, Any]:
        answer = await self.http.post("/v1/uploads", content=data, headers=headers)
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def media(self, **headers: str) -> dict[str, Any]:
        """The two media fields of a request, uploaded."""
        photo = await self.upload(self.photo, **headers)
        dance = await self.upload(self.dance, **headers)
        return {
            "reference_image": {"upload_id": photo["id"]},
            "driving_video": {"upload_id": dance["id"]},
        }

    async def job(self, *, media: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """A queued smoke job."""
        headers = more.pop("headers", {})
        request = {**(media or await self.media(**headers)), **more.pop("request", {})}
        body = {"workflow": "smoke", "request": request, **more}
        answer = await self.http.post("/v1/jobs", json=body, headers=headers)
        assert answer.status_code == 202, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def claim(self, job_id: str) -> Fence:
        """Have an engine that does not exist take the job."""

        def work(session: Session) -> Fence | None:
            return queue.claim(
                session, job_id, engine="nowhere", attempt_id=str(uuid4()), now=self.gateway.now()
            )

        fence = await self.gateway.db.write(work)
        assert fence is not None
        self.gateway.feed.publish(job_id)
        return fence

    async def succeed(self, job_id: str, video: bytes | None = None) -> None:
        """Have the job end well, with a video and a poster."""
        fence = await self.claim(job_id)

        async def pieces(data: bytes) -> AsyncIterator[bytes]:
            yield data

        stored = await self.gateway.store.put(pieces(self.dance if video is None else video))
        poster = await self.gateway.store.put(pieces(self.photo))
        artifacts = [
            NewArtifact("video", stored.id, "video/mp4", 64, 96, 24, 24.0, 1.0),
            NewArtifact("poster", poster.id, "image/jpeg", 64, 96),
        ]

        def work(session: Session) -> bool:
            queue.submitting(session, fence, graph={"1": {"class_type": "X"}}, now=self.now())
            queue.start(session, fence, now=self.now())
            return queue.succeed(
                session, fence, artifacts=artifacts, usage=Usage(1.5), now=self.now()
            )

        assert await self.gateway.db.write(work)
        self.gateway.feed.publish(job_id)

    def now(self) -> datetime:
        return self.gateway.now()

    async def key(self, *scopes: str, name: str = "test") -> dict[str, str]:
        """A new key's Authorization header."""
        wanted = [Scope(scope) for scope in scopes]
        made = await self.gateway.db.write(
            lambda session: keys.create(session, name=name, scopes=wanted, now=self.now())
        )
        self.app.state.doorman.keys_changed()
        return {"Authorization": f"Bearer {made.key}"}

    async def watched(self) -> None:
        """Wait until somebody watches a job."""
        await until(lambda: bool(self.gateway.feed._watchers))

    async def count(self, table: str) -> int:
        query = sa.text(f"SELECT count(*) FROM {table}")  # noqa: S608 - names of our own tables
        return int(await self.gateway.db.read(lambda session: session.execute(query).scalar_one()))


def settings_in(data: Path, template: Path) -> Settings:
    """A data directory with a store like the template, and no engine."""
    data.mkdir()
    shutil.copy(template, data / "gateway.db")
    return Settings(data_dir=data, admission="off", comfyui_urls=(NOBODY,))


@asynccontextmanager
async def opened(
    settings: Settings, photo: bytes, dance: bytes, *, gateway: Gateway | None = None
) -> AsyncIterator[World]:
    """A gateway in this process, called without a socket."""
    gateway = gateway or Gateway(settings)
    app = create_app(settings, gateway=gateway)
    transport = httpx.ASGITransport(app=app)
    async with (
        gateway.running(),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http,
    ):
        yield World(gateway, app, http, photo, dance)


@asynccontextmanager
async def serving(
    settings: Settings, photo: bytes, dance: bytes, *, limits: HttpLimits | None = None
) -> AsyncIterator[World]:
    """A gateway behind a real socket, for streams and for bodies that misbehave."""
    gateway = Gateway(settings)
    services = gateway.services()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with gateway.running():
            yield

    app = make_api(replace(services, limits=limits or services.limits), lifespan=lifespan)
    listener = socket.socket(proto=socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY by it
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        log_config=None,
        lifespan="on",
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    await until(lambda: server.started or task.done())
    assert server.started, "the server ended"
    async with httpx.AsyncClient(base_url=base, timeout=60) as http:
        yield World(gateway, app, http, photo, dance)
    server.should_exit = True
    await task


async def drip(world: World, first: bytes, piece: bytes, *, every: float = 0.05) -> bytes:
    """Send a piece now and then until the server ends the connection; return what it answered.

    A plain socket, since what was answered is to be read though the next piece finds it closed.
    """
    loop = asyncio.get_running_loop()
    answer = b""
    with socket.socket() as connection:
        connection.setblocking(False)
        await loop.sock_connect(connection, (world.http.base_url.host, world.http.base_url.port))
        await loop.sock_sendall(connection, first)

        async def send() -> None:
            with suppress(ConnectionError):
                while True:
                    await loop.sock_sendall(connection, piece)
                    await asyncio.sleep(every)

        sender = asyncio.create_task(send())
        with suppress(ConnectionError):
            while more := await loop.sock_recv(connection, 4096):
                answer += more
        sender.cancel()
        await asyncio.wait({sender})
    return answer


async def until(true: Callable[[], bool | Awaitable[bool]], seconds: float = 60) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(seconds):
        while True:
            found = true()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.005)
