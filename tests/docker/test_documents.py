"""The pages for operators name commands, options, files and variables that exist."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer

from app.cli.lazy import RootGroup
from app.cli.main import app
from app.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs" / name for name in ("deploy.md", "operations.md", "models.md", "fleet.md")),
    *sorted(DOCKER.glob("*.md")),
]
WORD = r"[^\s`|;&()]+"


def code(page: Path) -> str:
    """What is in code: inline, and in blocks without comments. Continued lines are one."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    inline = re.findall(r"(?<!`)`([^`]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    lines = [re.sub(r" +# .*", "", line) for block in blocks for line in block.splitlines()]
    return "\n".join([*lines, *(" ".join(one.split()) for one in inline)]).replace("\\\n", " ")


def wrong_in(words: list[str]) -> str | None:
    """What `steadydancer WORDS` has that the command line does not."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        lazy = RootGroup.lazy.get(name)
        if lazy is not None:
            command = typer.main.get_group(import_module(lazy[0]).app)
        elif name in command.commands:
            command = command.commands[name]
        else:
            return "no such command"
    if hasattr(command, "commands") and "--help" not in rest:
        return "a subcommand is missing"
    known = {"--help"}.union(*({*one.opts, *one.secondary_opts} for one in command.params))
    unknown = [word for word in rest if re.match(r"--?[a-z]", word) and word not in known]
    return f"no option {unknown[0]}" if unknown else None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("vram", "a subcommand is missing"),
        ("db save x", "no such command"),
        ("keys create a --role admin", "no option --role"),
        ("models download --variant q6_k --dry-run", None),
        ("submit -i a.jpg -v b.mp4 -p words -o c.mp4", None),
    ],
)
def test_a_wrong_command_is_seen(line: str, said: str | None) -> None:
    assert wrong_in(line.split()) == said


@cache
def help_of(script: Path) -> str:
    done = subprocess.run([str(script), "--help"], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_the_command_line_exist_with_their_options(page: Path) -> None:
    for line in re.findall(rf"(?:^|\s)(?:\.venv/bin/)?steadydancer((?: {WORD})*)", code(page)):
        words = line.split()
        assert not words or wrong_in(words) is None, f"steadydancer{line}: {wrong_in(words)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_scripts_exist_and_have_the_options_they_are_given(page: Path) -> None:
    for name, line in re.findall(rf"([\w./-]+\.sh)((?: {WORD})*)", code(page)):
        places = [DOCKER / name.removeprefix("docker/"), DOCKER / "requirements" / name]
        places += [DOCKER / "build" / name, DOCKER / name.removeprefix("/opt/gateway/bin/")]
        script = next((one for one in places if one.is_file()), None)
        assert script is not None, name
        for option in re.findall(r"(?<=[\s\[])--[a-z][\w-]*", line):
            assert option in help_of(script), f"{name} {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_build_arguments_exist(page: Path) -> None:
    known = set(
        re.findall(r"^ARG (\w+)", (DOCKER / "Dockerfile.zr4").read_text("utf-8"), re.MULTILINE)
    )
    assert set(re.findall(r"--build-arg (\w+)", code(page))) <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_docker_compose_finds_its_file(page: Path) -> None:
    """There is none where the commands are run: each names it, or the page exports it."""
    text = code(page)
    if "COMPOSE_FILE=" not in text:
        assert not re.search(r"docker compose (?!-f)(?:exec|up|logs|run|stop)", text)
    for file in re.findall(r"(?:docker compose -f |COMPOSE_FILE=)(docker/\S+)", text):
        assert (ROOT / file).is_file(), file


def test_each_variable_of_the_example_is_read_by_something() -> None:
    text = (DOCKER / ".env.example").read_text(encoding="utf-8")
    named = re.findall(r"^# ([A-Z][A-Z_]+)=", text, re.MULTILINE)
    assert len(named) > 8
    settings = {f"GATEWAY_{name.upper()}" for name in Settings.model_fields}
    readers = [*DOCKER.glob("*.sh"), *DOCKER.glob("docker-compose.*.yml")]
    scripts = "".join(one.read_text(encoding="utf-8") for one in readers)
    for name in named:
        assert name in settings or f"${{{name}" in scripts or name.startswith("HF_"), name
