"""Runs the real application, and can be told to die between two commits.

`CRASH_AFTER=N` ends the process the moment its N-th write is committed and before anybody in it
learns of that, as a power cut would.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import Future
from typing import Any

import uvicorn

from app import database
from app.main import create_app
from app.settings import Settings
from app.telemetry import configure_logging

_left = int(os.environ.pop("CRASH_AFTER", "0"))


class _CrashingFuture(Future[Any]):
    def set_result(self, result: Any) -> None:
        global _left  # noqa: PLW0603 - counts for the whole process
        _left -= 1
        if _left == 0:
            os._exit(137)
        super().set_result(result)


def main() -> None:
    """Serve until SIGTERM."""
    if _left:
        database.Future = _CrashingFuture  # type: ignore[misc]
    configure_logging(log_format="json", level="info")
    settings = Settings()
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        timeout_graceful_shutdown=5,
    )


if __name__ == "__main__":
    sys.exit(main())
