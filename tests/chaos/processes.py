"""Start, kill, freeze and look at the two processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "docs" / "samples"


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def until(condition: Callable[[], Any], *, seconds: float, what: str) -> Any:
    """Wait for a condition and give its value; fail in words when it does not come."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:g} s: {what}")


class Process:
    """A child that can be killed and started again with the same arguments."""

    def __init__(self, command: list[str], *, log: Path, environ: dict[str, str] | None = None):
        self.command = command
        self.log = log
        self.environ = environ or {}
        self.child: subprocess.Popen[bytes] | None = None

    def start(self, **more: str) -> None:
        with self.log.open("ab") as output:
            self.child = subprocess.Popen(
                self.command,
                cwd=ROOT,
                stdout=output,
                stderr=output,
                env={**os.environ, **self.environ, **more},
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        return self.child is not None and self.child.poll() is None

    def signal(self, which: signal.Signals) -> None:
        if self.alive and self.child is not None:
            self.child.send_signal(which)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        if self.child is not None:
            self.child.wait()

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        assert self.child is not None
        try:
            return self.child.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


class Engine(Process):
    """A stand-in ComfyUI whose files outlive it."""

    def __init__(self, directory: Path, *options: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "app.standin", "--port", str(self.port)]
        command += ["--directory", str(directory), *options]
        super().__init__(command, log=directory / "standin.log")

    def start(self, **more: str) -> None:
        super().start(**more)
        until(self.answers, seconds=20, what="the stand-in answers")

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/system_stats", timeout=2).is_success
        except httpx.HTTPError:
            return False

    def misbehave(self, mode: str, **how: Any) -> None:
        body = {"mode": mode, **how}
        httpx.post(f"{self.url}/standin/misbehave", json=body, timeout=5).raise_for_status()

    def stats(self) -> dict[str, Any]:
        return dict(httpx.get(f"{self.url}/standin/stats", timeout=5).json())


class Gateway(Process):
    """The gateway on a data directory of its own."""

    def __init__(self, directory: Path, engine_url: str, **settings: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        environ = {
            "GATEWAY_PORT": str(self.port),
            "GATEWAY_DATA_DIR": str(directory),
            "GATEWAY_COMFYUI_URLS": engine_url,
            "GATEWAY_ADMISSION": "off",
            "GATEWAY_QUIET_SECONDS": "0.3",
            "GATEWAY_MIN_FREE_BYTES": "0",
            **settings,
        }
        super().__init__(
            [sys.executable, "-m", "tests.chaos.launcher"],
            log=directory / "gateway.log",
            environ=environ,
        )

    def start(self, **more: str) -> None:
        super().start(**more)
        until(
            lambda: self.answers() or not self.alive,
            seconds=30,
            what=f"the gateway answers; its log ends: {self.tail()}",
        )

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", timeout=2).is_success
        except httpx.HTTPError:
            return False

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def submit(self, key: str, *, workflow: str = "smoke", **request: Any) -> str | None:
        """Submit with an idempotency key; None if the gateway died meanwhile."""
        body = {"workflow": workflow, "request": request}
        try:
            with (
                (SAMPLES / "photo.jpg").open("rb") as photo,
                (SAMPLES / "dance.mp4").open("rb") as dance,
            ):
                answer = httpx.post(
                    f"{self.url}/v1/jobs",
                    headers={"Idempotency-Key": key},
                    data={"job": json.dumps(body)},
                    files={"reference_image": photo, "driving_video": dance},
                    timeout=30,
                )
        except httpx.HTTPError:
            return None
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        answer = httpx.get(f"{self.url}/v1/jobs/{job_id}", timeout=10)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def job_or_none(self, job_id: str) -> str | None:
        """The job's status; None while the gateway does not answer."""
        try:
            return str(self.job(job_id)["status"])
        except httpx.HTTPError:
            return None

    def video(self, job_id: str) -> bytes:
        answer = httpx.get(f"{self.url}/v1/jobs/{job_id}/video", timeout=10)
        assert answer.status_code == 200, answer.text
        return answer.content

    def events(self, job_id: str) -> list[dict[str, Any]]:
        """The whole stored log of an ended job."""
        with httpx.stream("GET", f"{self.url}/v1/jobs/{job_id}/events", timeout=10) as answer:
            data = [line[6:] for line in answer.iter_lines() if line.startswith("data: ")]
        return [json.loads(text) for text in data]

    def ended(self, job_id: str, *, seconds: float = 60) -> dict[str, Any]:
        """Wait for the job's end and give it."""

        def look() -> dict[str, Any] | None:
            try:
                job = self.job(job_id)
            except httpx.HTTPError:
                return None
            return job if job["status"] in {"succeeded", "failed", "canceled"} else None

        found = until(look, seconds=seconds, what=f"job {job_id} ends; log: {self.tail()}")
        return dict(found)
