"""Linters and schemas over what Docker, Compose and the CI read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DOCKER = Path(__file__).resolve().parents[2] / "docker"
TOOLS = Path(sys.executable).parent


def clean(*command: str | Path) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    clean(TOOLS / "hadolint", DOCKER / "Dockerfile.zr4")


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        ("vendor.compose-spec", "docker-compose.zr4.yml"),
        ("vendor.compose-spec", "docker-compose.dev.yml"),
        ("vendor.compose-spec", "docker-compose.fleet.yml"),
        ("vendor.github-workflows", "ci/publish.yml"),
    ],
)
def test_each_file_passes_its_schema(schema: str, name: str) -> None:
    clean(TOOLS / "check-jsonschema", "--builtin-schema", schema, DOCKER / name)
