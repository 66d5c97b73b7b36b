"""Our programs as processes of their own, forked from one that has imported them already.

Each has its own session, environment, arguments, log and sockets, as if a shell had started it,
and comes up in a third of the time: most of a start is importing.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["app.cli.main", "app.cli.server", "app.standin.__main__"])

STEADYDANCER = "app.cli.main:main"
STANDIN = "app.standin.__main__:main"


def start(
    program: str,
    arguments: Sequence[str],
    *,
    environ: Mapping[str, str],
    log: Path,
    out: Path | None = None,
    folder: Path = ROOT,
) -> BaseProcess:
    """Start a program; it is ended when this process ends in order.

    Args:
        program: `module:function`, a function that reads `sys.argv`.
        arguments: What follows the program's name there.
        environ: The whole environment.
        log: File to whose end it prints.
        out: File for its standard output, if not the same.
        folder: Where it runs.
    """
    files = (str(out or log), str(log))
    child = _context.Process(
        target=_run,
        args=(program, list(arguments), dict(environ), files, str(folder)),
        daemon=True,
    )
    child.start()
    return child


def run(
    program: str, arguments: Sequence[str], *, environ: Mapping[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, for at most 200 seconds."""
    with tempfile.TemporaryDirectory() as place:
        out, log = Path(place, "out"), Path(place, "log")
        child = start(program, arguments, environ=environ, log=log, out=out, folder=folder)
        child.join(200)
        if child.exitcode is None:
            child.kill()
            raise subprocess.TimeoutExpired(program, 200, out.read_text(), log.read_text())
        return subprocess.CompletedProcess(
            arguments, child.exitcode, out.read_text(), log.read_text()
        )


def _run(
    program: str, arguments: list[str], environ: dict[str, str], files: tuple[str, str], folder: str
) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environ)
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(folder)
    module, _, function = program.partition(":")
    sys.argv = [module, *arguments]
    getattr(importlib.import_module(module), function)()
