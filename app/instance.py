"""One gateway for each data directory: two would follow, and requeue, one another's attempts."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from app.errors import StoreUnavailable


@contextmanager
def sole_instance(directory: Path) -> Generator[None]:
    """Hold the data directory. The lock goes with the process, however it ends.

    Raises:
        StoreUnavailable: Another process holds it.
    """
    path = directory / "gateway.lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.read(handle, 32).decode("ascii", "replace").strip()
            raise StoreUnavailable(
                f"Another gateway (pid {pid or 'unknown'}) uses the data directory {directory}. "
                "Stop it first, or give this one a directory of its own."
            ) from error
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode("ascii"))
        yield
    finally:
        os.close(handle)
