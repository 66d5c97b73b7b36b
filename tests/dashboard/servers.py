"""Gateway and stand-in as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx

from tests.chaos.processes import HTTP, PATIENCE
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "docs" / "samples"
NOBODY = "http://127.0.0.1:9"
SMALL = {"prompt": "a person is dancing", "width": 256, "height": 448, "frames": 9}
"""What takes little time to make."""


@contextmanager
def process(command: list[str], log: Path, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """A child in a process group of its own, ended with the block."""
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=output,
            stderr=output,
            env={**os.environ, **environ},
            start_new_session=True,
        )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def answers(
    url: str, child: subprocess.Popen[bytes], log: Path, *, seconds: float = PATIENCE
) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and child.poll() is None:
        try:
            HTTP.get(url)
        except httpx.HTTPError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"{url} does not answer: {log.read_text(errors='replace')[-3000:]}")


class Server(Protocol):
    """What `running` can run: a command that answers at an address, and its log."""

    command: list[str]
    environ: dict[str, str]
    health: str
    log: Path


@contextmanager
def running(*servers: Server) -> Iterator[None]:
    """Start servers, all at once since each takes a second to come up; stop them in the end."""
    with ExitStack() as stack:
        started = [
            stack.enter_context(process(one.command, one.log, **one.environ)) for one in servers
        ]
        for one, child in zip(servers, started, strict=True):
            answers(one.health, child, one.log)
        yield


class Engine:
    """A stand-in with all models of the shipped workflows."""

    def __init__(self, directory: Path, *, models: dict[str, Any], step_seconds: float) -> None:
        directory.mkdir(parents=True)
        listed = directory / "models.json"
        listed.write_text(json.dumps(models))
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.health = f"{self.url}/system_stats"
        self.log = directory / "standin.log"
        self.environ: dict[str, str] = {}
        self.command = [
            *(sys.executable, "-m", "app.standin", "--port", str(port)),
            *("--directory", str(directory), "--models-from", str(listed)),
            *("--step-seconds", str(step_seconds)),
            *("--vram-total-mib", "24576", "--need-mib", "7000"),
        ]

    def misbehave(self, mode: str, **how: Any) -> None:
        body = {"mode": mode, **how}
        HTTP.post(f"{self.url}/standin/misbehave", json=body).raise_for_status()

    def behave(self) -> None:
        """End every fault, also a run that hangs: it goes on where it stands."""
        HTTP.post(f"{self.url}/standin/behave").raise_for_status()


class Gateway:
    """A gateway with a simulated card, or without one, on a store of its own."""

    def __init__(
        self, directory: Path, engine_url: str, *, card: bool = False, **settings: str
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.health = f"{self.url}/healthz"
        self.log = directory / "gateway.log"
        self.others = directory / "others.txt"
        self.others.write_text("3000")
        self.command = [sys.executable, "-m", "tests.dashboard.launcher"]
        if not card:
            self.command = [sys.executable, "-m", "app.cli", "serve"]
        self.environ = {
            "GATEWAY_PORT": str(port),
            "GATEWAY_DATA_DIR": str(directory),
            "GATEWAY_COMFYUI_URLS": engine_url,
            "GATEWAY_ADMISSION": "nvml" if card else "off",
            "GATEWAY_QUIET_SECONDS": "0.3",
            "GATEWAY_MIN_FREE_BYTES": "0",
            "OTHERS_FILE": str(self.others),
            **settings,
        }

    def get(self, path: str, **headers: str) -> dict[str, Any]:
        answer = HTTP.get(f"{self.url}{path}", headers=headers)
        assert answer.status_code in {200, 503}, answer.text
        return dict(answer.json())

    def submit(self, *, workflow: str = "steadydancer", **more: Any) -> dict[str, Any]:
        """A job with the sample photo and dance."""
        request = {**SMALL, **more.pop("request", {})}
        headers = more.pop("headers", {})
        with (
            (SAMPLES / "photo.jpg").open("rb") as photo,
            (SAMPLES / "dance.mp4").open("rb") as dance,
        ):
            answer = HTTP.post(
                f"{self.url}/v1/jobs",
                headers=headers,
                data={"job": json.dumps({"workflow": workflow, "request": request, **more})},
                files={"reference_image": photo, "driving_video": dance},
            )
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def call(self, method: str, path: str, **headers: str) -> int:
        """Call without a body; the status."""
        return HTTP.request(method, f"{self.url}{path}", headers=headers).status_code

    def until(self, job_id: str, *statuses: str, seconds: float = PATIENCE) -> dict[str, Any]:
        """Wait until a job has one of these statuses."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            job = self.get(f"/v1/jobs/{job_id}?wait=2")
            if job["status"] in statuses:
                return job
        raise AssertionError(f"job {job_id} is still {job['status']}")
