"""Runs a command that ends with the process that started it, however that one ends.

`python -m app.cli.child COMMAND...`. Only Linux can promise it for SIGKILL as well; elsewhere the
starter's own clean-up must do.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""


def main() -> None:
    """Ask for the signal, then become the command."""
    starter = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != starter:  # it died before we asked
            sys.exit(1)
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - our own command line


if __name__ == "__main__":
    main()
