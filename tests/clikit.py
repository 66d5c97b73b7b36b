"""The command line, run in the test's own process: its words, its exit code, its environment."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from app.cli.main import main


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def invoke(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *words: str,
    environment: Mapping[str, str],
    given: str = "",
) -> Ended:
    """Run `steadydancer WORDS` to its end."""
    capsys.readouterr()
    code = 0
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["steadydancer", *words])
        patch.setattr(sys, "stdin", io.StringIO(given))
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    told = capsys.readouterr()
    return Ended(code, told.out, told.err)
