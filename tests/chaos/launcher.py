"""The gateway, told to die between two commits.

`CRASH_AFTER=N` ends the process the moment its N-th write is committed and before anybody in it
learns of that, as a power cut would.
"""

from __future__ import annotations

import os
from concurrent.futures import Future
from typing import Any

from app import database
from app.cli.main import main


def crashing() -> None:
    """Run the command line; the process ends with the last commit that it may make."""
    database.Future = _crashing(int(os.environ.pop("CRASH_AFTER")))  # type: ignore[attr-defined]
    main()


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
