"""The one command: how it starts, ends, and what outlives it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.standin.conftest import slow

PATIENCE = 90.0


class Command:
    """The stand-in in a process of its own, on one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process: subprocess.Popen[str] | None = None
        self.url = ""
        self.ended = False

    def start(self, *options: str) -> None:
        command = [sys.executable, "-m", "app.standin", "--port", "0", "--probe-nodes"]
        command += ["--directory", str(self.directory), "--no-work", *options]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.ended = False
        self.url = json.loads(self.process.stdout.readline())["url"]

    def end(self, *, kill: bool = False) -> tuple[int, str]:
        """End it; its status and what it wrote to stderr."""
        assert self.process is not None
        (self.process.kill if kill else self.process.terminate)()
        _, errors = self.process.communicate(timeout=PATIENCE)
        self.ended = True
        return self.process.returncode, errors

    def get(self, path: str) -> Any:
        return httpx.get(self.url + path, timeout=PATIENCE).json()

    def submit(self, graph: dict[str, Any], prompt_id: str) -> None:
        body = {"prompt": graph, "prompt_id": prompt_id}
        httpx.post(f"{self.url}/prompt", json=body, timeout=PATIENCE).raise_for_status()

    def stats(self, prompt_id: str) -> dict[str, Any]:
        return dict(self.get("/standin/stats")["prompts"].get(prompt_id, {}))

    def until(self, prompt_id: str, count: str, number: int = 1) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.stats(prompt_id).get(count, 0) < number:
            assert time.monotonic() < deadline, f"never {count} {number} times"
            time.sleep(0.01)


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    command = Command(tmp_path)
    yield command
    if command.process is not None and not command.ended:
        command.end(kill=True)


def identity(number: int) -> str:
    return f"66666666-0000-4000-8000-{number:012}"


def test_counts_and_files_outlive_a_kill_while_queue_and_history_do_not(command: Command) -> None:
    command.start()
    command.submit(slow(salt=1), identity(1))
    command.until(identity(1), "ended")
    command.submit(slow(salt=2, steps=1000, delay=0.1), identity(2))
    command.until(identity(2), "started")
    command.submit(slow(salt=3), identity(3))
    status, _ = command.end(kill=True)
    assert status == -9

    command.start()
    assert command.get("/history") == {}
    assert command.get("/queue") == {"queue_running": [], "queue_pending": []}
    finished, killed, waiting = (command.stats(identity(number)) for number in (1, 2, 3))
    counts = ("accepted", "started", "ended", "succeeded")
    assert [finished[name] for name in counts] == [1, 1, 1, 1]
    assert [killed[name] for name in counts] == [1, 1, 0, 0]
    assert [waiting[name] for name in counts] == [1, 0, 0, 0]
    answer = httpx.get(f"{command.url}/view", params={"filename": "slow1_00001_.mp4"})
    assert answer.status_code == 200

    command.submit(slow(salt=2), identity(2))
    command.until(identity(2), "succeeded")
    again = command.stats(identity(2))
    assert [again[name] for name in counts] == [2, 2, 1, 1]


def test_each_run_has_its_times(command: Command) -> None:
    command.start()
    before = time.monotonic_ns()
    command.submit(slow(), identity(1))
    command.until(identity(1), "ended")
    events = {event["event"]: event for event in command.stats(identity(1))["events"]}
    stamps = [events[name]["monotonic_ns"] for name in ("accepted", "started", "ended")]
    walk = [before, *stamps, time.monotonic_ns()]
    assert walk == sorted(walk)
    assert events["ended"]["outcome"] == "success"
    assert abs(events["ended"]["time"] - time.time()) < PATIENCE


def test_sigterm_ends_it_cleanly_in_mid_run(command: Command) -> None:
    command.start()
    command.submit(slow(steps=1000, delay=0.1), identity(1))
    command.until(identity(1), "started")
    began = time.monotonic()
    status, errors = command.end()
    assert status == 0
    assert errors == ""
    assert time.monotonic() - began < 50  # the run itself lasts 100


@pytest.mark.parametrize("how", ["die:at_step=2", "die:node=accepted"])
def test_it_can_die_by_itself(command: Command, how: str) -> None:
    command.start("--misbehave", how)
    with pytest.raises(httpx.TransportError):  # noqa: PT012 - either call may be the last
        command.submit(slow(), identity(1))
        while True:
            command.get("/queue")
    assert command.process is not None
    assert command.process.wait(timeout=PATIENCE) == 1


def test_answers_do_not_wait_for_an_acknowledgement(command: Command) -> None:
    """A server socket with Nagle's algorithm on takes 40 ms for each answer."""
    command.start()
    with httpx.Client(base_url=command.url, timeout=PATIENCE) as http:
        taken = []
        for _ in range(20):
            began = time.monotonic()
            http.get("/queue")
            taken.append(time.monotonic() - began)
    assert min(taken[1:]) < 0.035


def test_model_files_can_be_added(command: Command, tmp_path: Path) -> None:
    more = tmp_path / "models.json"
    more.write_text(json.dumps({"WanVideoModelLoader.model": ["mine.gguf"]}))
    command.start("--models-from", str(more))
    described = command.get("/object_info/WanVideoModelLoader")["WanVideoModelLoader"]
    assert "mine.gguf" in described["input"]["required"]["model"][0]
    assert "mine.gguf" in command.get("/models/unet_gguf")
    _, errors = command.end()
    assert errors == "stand-in: WanVideoModelLoader.model also lists mine.gguf\n"


def test_it_starts_without_heavy_modules() -> None:
    """A start must be quick, and one without work must stay small."""
    script = (
        "import sys, app.standin.serve, app.standin.server\n"
        "heavy = {'av', 'PIL', 'numpy', 'torch', 'fastapi', 'pydantic', 'sqlmodel'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert done.stdout.strip() == "[]"
