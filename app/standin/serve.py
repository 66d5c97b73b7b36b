"""Serving a stand-in: as a process of its own, or inside a test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator

import uvicorn

from app.standin.server import Standin

LARGEST_MESSAGE = 64 * 1024 * 1024


def listen(host: str, port: int) -> socket.socket:
    """A socket to serve on; port 0 takes a free one."""
    # Named as TCP, or asyncio leaves Nagle's algorithm on and every answer waits 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a listener is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://{host}:{port}"


async def serve_forever(standin: Standin, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT; one JSON line on stdout says when it answers.

    The end is abrupt, sockets cut without a goodbye, as recorded of the real server.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, os._exit, 0)
    async with serving(standin, listener) as url:
        line = {"url": url, "port": listener.getsockname()[1], "pid": os.getpid()}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def serving(standin: Standin, listener: socket.socket | None = None) -> AsyncIterator[str]:
    """Serve on the running loop for as long as the block lasts; gives the URL."""
    listener = listener or listen("127.0.0.1", 0)
    config = uvicorn.Config(
        standin.app,
        log_config=None,
        access_log=False,
        ws="websockets-sansio",
        ws_max_size=LARGEST_MESSAGE,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)
    served = asyncio.create_task(server.serve(sockets=[listener]))
    ready = asyncio.create_task(server.ready.wait())
    await asyncio.wait({served, ready}, return_when=asyncio.FIRST_COMPLETED)
    try:
        yield url_of(listener)
    finally:
        server.should_exit = True
        ready.cancel()
        await served


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to whoever runs the loop."""
        yield
