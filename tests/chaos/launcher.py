"""Runs the real application, and can be told to die between two commits.

`CRASH_AFTER=N` ends the process the moment its N-th write is committed and before anybody in it
learns of that, as a power cut would.

The processes are forked from a server that has imported the application already: each is a process
of its own, with its own sockets and files, and starts in a tenth of the time.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import Future
from multiprocessing.process import BaseProcess
from typing import Any

import uvicorn

from app import database
from app.main import create_app
from app.settings import Settings
from app.telemetry import configure_logging

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.chaos.launcher"])


def start(environ: dict[str, str], log: str) -> BaseProcess:
    """Start a gateway with these settings; what it prints goes to the end of a file."""
    child = _context.Process(target=serve, args=(environ, log), daemon=True)
    child.start()
    return child


def serve(environ: dict[str, str], log: str) -> None:
    """Serve until SIGTERM."""
    os.setsid()
    os.environ.update(environ)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if after := int(os.environ.pop("CRASH_AFTER", "0")):
        database.Future = _crashing(after)  # type: ignore[attr-defined]
    configure_logging(log_format="json", level="info")
    settings = Settings()
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        timeout_graceful_shutdown=5,
    )


def _crashing(after: int) -> type[Future[Any]]:
    left = after

    class CrashingFuture(Future[Any]):
        def set_result(self, result: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os._exit(137)
            super().set_result(result)

    return CrashingFuture
