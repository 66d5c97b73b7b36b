"""Tasks that behave as a file that takes over its decoder would."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any


def _hang(**_: object) -> dict[str, Any]:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    while True:
        time.sleep(3600)


def _crash(**_: object) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGSEGV)
    return {}


def _eat(mib: int) -> dict[str, Any]:
    return {"bytes": len(bytes(mib << 20))}


def _write(path: str, size: int) -> dict[str, Any]:
    Path(path).write_bytes(bytes(size))
    return {}


def _wait(path: str) -> dict[str, Any]:
    Path(path).write_text(str(os.getpid()))
    time.sleep(3600)
    return {}


def _environment() -> dict[str, Any]:
    return dict(os.environ)


def _nursery() -> dict[str, Any]:
    return {"pid": os.getpid(), "parent": os.getppid()}


TASKS = {
    "hang": _hang,
    "crash": _crash,
    "eat": _eat,
    "write": _write,
    "wait": _wait,
    "environment": _environment,
    "nursery": _nursery,
}
