"""The command line as people and scripts use it: two streams and an exit code."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests import forked
from tests.clikit import Ended, invoke
from tests.livekit import Live, environment, live


class Command(Protocol):
    """`steadydancer`, run in a folder of the test's own."""

    def __call__(self, *words: str, stdin: str = "") -> Ended: ...


@pytest.fixture(scope="package")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("cli")) as running:
        yield running


@pytest.fixture
def command_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Command]:
    """A command with these variables in its environment."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(("GATEWAY_", "STEADYDANCER_")):
            monkeypatch.delenv(name)

    def made(**environ: str) -> Command:
        def run(*words: str, stdin: str = "") -> Ended:
            given = {"COLUMNS": "120", **environ}
            return invoke(monkeypatch, capsys, *words, environment=given, given=stdin)

        return run

    return made


@pytest.fixture
def steadydancer(command_with: Callable[..., Command], gateway: Live) -> Command:
    """With the gateway's URL in the environment."""
    return command_with(STEADYDANCER_URL=gateway.url)


@pytest.fixture
def alone(command_with: Callable[..., Command], tmp_path: Path) -> Command:
    """With no gateway, and a data directory of its own."""
    return command_with(
        STEADYDANCER_URL="http://127.0.0.1:9",
        GATEWAY_DATA_DIR=str(tmp_path / "data"),
        GATEWAY_ADMISSION="off",
    )


def as_process(folder: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own, for what only that can show."""
    return forked.run(
        forked.STEADYDANCER, words, environ=environment(COLUMNS="120", **environ), folder=folder
    )
