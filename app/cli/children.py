"""Servers as child processes: started, waited for until they answer, always stopped."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from app.cli.output import ExitCode, Stop

_STOP_SECONDS = 15.0


class Child:
    """A server that prints one line of JSON with its `url` when it answers.

    Args:
        name: What people call it.
        arguments: Arguments of this Python.
        log: File that gets what it prints for people.
        environ: Its environment.
    """

    def __init__(
        self, *, name: str, arguments: Sequence[str], log: Path, environ: Mapping[str, str]
    ) -> None:
        self.name = name
        self.url = ""
        self._log = log
        # Out of the terminal's process group: Ctrl-C is for us, and we stop the children in order.
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own command line
                [sys.executable, "-m", "app.cli.child", sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=output,
                env=dict(environ),
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def announced(self, *, seconds: float) -> str:
        """Wait for its line and give its URL.

        Raises:
            Stop: It ended, or said nothing in time; with the end of its log.
        """
        deadline = time.monotonic() + seconds
        line = self._first_line(deadline)
        try:
            self.url = str(json.loads(line)["url"])
        except (ValueError, KeyError, TypeError) as error:
            how = "did not answer in time" if self.alive else "ended at once"
            raise Stop(f"{self.name} {how}.\n{self.tail()}", ExitCode.UNREACHABLE) from error
        return self.url

    def tail(self) -> str:
        """The end of its log."""
        lines = self._log.read_text(errors="replace").splitlines()[-8:]
        return "\n".join([*(f"  {line}" for line in lines), f"All of it is in {self._log}."])

    def stop(self) -> None:
        """End it: asked first, then made to."""
        if self.alive:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _first_line(self, deadline: float) -> bytes:
        assert self._process.stdout is not None  # noqa: S101 - it was asked for
        handle = self._process.stdout.fileno()
        found = b""
        while not found.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([handle], [], [], left)[0]:
                break
            data = os.read(handle, 1)
            if not data:
                self._process.wait(1)
                break
            found += data
        return found
