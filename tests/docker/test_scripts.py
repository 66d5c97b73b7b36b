"""The scripts do what they say: bats against stand-ins, and ShellCheck."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.docker.programs import program

HERE = Path(__file__).resolve().parent
DOCKER = HERE.parent.parent / "docker"
SCRIPTS = sorted([*DOCKER.glob("*.sh"), *DOCKER.glob("*/*.sh")])


def test_scripts_do_what_they_say() -> None:
    bats = program("bats", "bats")
    for needed in ("jq", "curl"):
        program(needed, needed)
    done = subprocess.run(
        [bats, "--tap", str(HERE / "scripts.bats")],
        env={**os.environ, "READY_SECONDS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    plan = int(done.stdout.splitlines()[0].removeprefix("1.."))
    assert plan >= 49
    assert f"\nok {plan} " in done.stdout
    assert "# skip" not in done.stdout


def test_shellcheck_finds_nothing() -> None:
    shellcheck = program("shellcheck", "shellcheck")
    done = subprocess.run(
        [shellcheck, "-x", *map(str, SCRIPTS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_each_script_can_be_run_and_stops_at_errors(script: Path) -> None:
    if script.name == "lib.sh":
        assert not os.access(script, os.X_OK)
        return
    assert os.access(script, os.X_OK)
    if script.name != "steadydancer.sh":
        assert "set -Eeuo pipefail" in script.read_text(encoding="utf-8")
