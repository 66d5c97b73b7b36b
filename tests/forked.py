"""Our programs as processes of their own, forked from one that has imported them already.

Each has its own session, environment, arguments, log and sockets, as if a shell had started it,
and comes up in a third of the time: most of a start is importing.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["app.cli.main", "app.cli.server", "app.standin.__main__"])

STEADYDANCER = "app.cli.main:main"
STANDIN = "app.standin.__main__:main"


def start(
    program: str, arguments: Sequence[str], *, environ: Mapping[str, str], log: Path
) -> BaseProcess:
    """Start a program; it ends with this process at the latest.

    Args:
        program: `module:function`, a function that reads `sys.argv`.
        arguments: What follows the program's name there.
        environ: The whole environment.
        log: File to whose end it prints.
    """
    child = _context.Process(
        target=_run, args=(program, list(arguments), dict(environ), str(log)), daemon=True
    )
    child.start()
    return child


def _run(program: str, arguments: list[str], environ: dict[str, str], log: str) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environ)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    module, _, function = program.partition(":")
    sys.argv = [module, *arguments]
    getattr(importlib.import_module(module), function)()
