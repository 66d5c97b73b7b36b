"""The gateway's HTTP server: one socket, one process, an orderly end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from app.api.connection import Connection
from app.cli.output import ExitCode, Stop, note, say_line
from app.gateway import Gateway
from app.main import create_app
from app.parts import is_loopback
from app.settings import Settings
from app.telemetry import configure_logging

log = structlog.get_logger("gateway.server")

_BACKLOG = 2048


class _Server(uvicorn.Server):
    """Uvicorn, told what else is to happen when it has begun and before it waits for its end."""

    def __init__(
        self, config: uvicorn.Config, *, on_start: Callable[[], None], on_stop: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._on_start = on_start
        self._on_stop = on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections."""
        await super().startup(sockets)
        if self.started:
            self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End; long polls and event streams are told first, or they would be waited for."""
        self._on_stop()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
        """Take a signal. An asked-for end is no failure, so it is not raised again afterwards."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True


def serve(settings: Settings, *, announce: bool, worker: bool = False) -> ExitCode:
    """Run the gateway until SIGTERM or Ctrl-C.

    Args:
        settings: What the operator decided.
        announce: Print one line of JSON to standard output when it answers.
        worker: Run jobs of a shared store, and serve health and metrics only.

    Raises:
        Stop: The port is taken, or the host is not one of this machine's.
    """
    configure_logging(log_format=settings.log_format, level=settings.log_level)
    listening = _listen(settings.host, settings.port)
    with listening:
        port = int(listening.getsockname()[1])
        gateway = Gateway(settings, worker=worker)
        runner = _Runner(gateway, url=_url(settings.host, port), port=port, announce=announce)
        with asyncio.Runner(loop_factory=runner.loop_factory) as loop:
            loop.run(runner.run(listening))
    return ExitCode.JOB_FAILED if runner.crashed else ExitCode.OK


class _Runner:
    """The gateway and its server, from start to end."""

    def __init__(self, gateway: Gateway, *, url: str, port: int, announce: bool) -> None:
        self.crashed = False
        settings = self._settings = gateway.settings
        self._url = url
        self._port = port
        self._announce = announce
        self._gateway = gateway
        gateway.on_crash = self._crash
        app: FastAPI = create_app(settings, gateway=self._gateway)
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",  # no call here is a websocket
            log_config=None,
            access_log=False,
            lifespan="off",  # opened here, so that a refusal to start is told in its own words
            timeout_graceful_shutdown=max(1, round(settings.stop_seconds)),
            server_header=False,
            backlog=_BACKLOG,
        )
        self.loop_factory = config.get_loop_factory()
        self._server = _Server(config, on_start=self._started, on_stop=self._stopping)

    async def run(self, listening: socket.socket) -> None:
        """Open the gateway, serve, close it."""
        async with self._gateway.running():
            await self._server.serve(sockets=[listening])

    def _started(self) -> None:
        log.info("gateway started", url=self._url, pid=os.getpid())
        if self._announce:
            say_line({"url": self._url, "port": self._port, "pid": os.getpid()})
        if sys.stderr.isatty() and not self._gateway.is_worker:
            open_to_all = "" if is_loopback(self._settings.host) else " (with a key)"
            note(f"Dashboard  {self._url}/{open_to_all}")
            note(f"API page   {self._url}/docs")
            note("Ctrl-C ends it.")

    def _stopping(self) -> None:
        self._gateway.stopping.set()
        self._gateway.feed.publish_all()

    def _crash(self) -> None:
        self.crashed = True
        self._server.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
    """A socket that is bound already, so that a taken port is found before anything is opened."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise Stop(
            f"Cannot listen on {host} port {port}: {error.strerror or error}. Name another with "
            "--host and --port (GATEWAY_HOST, GATEWAY_PORT); port 0 takes a free one."
        ) from error
    listening.set_inheritable(False)
    return listening


def _url(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104 - compared only
    if ":" in shown and not shown.startswith("["):
        shown = f"[{shown}]"
    return f"http://{shown}:{port}"
