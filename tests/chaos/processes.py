"""Start, kill, freeze and look at the two processes."""

from __future__ import annotations

import abc
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx

from app.workflows.registry import load_workflows, standin_models
from tests import forked
from tests.ports import free_port
from tests.template import empty_store

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "docs" / "samples"
CRASHING = "tests.chaos.launcher:crashing"
SAMPLE_FILES = {"reference_image": "photo.jpg", "driving_video": "dance.mp4"}
PATIENCE = 120.0
"""Seconds for what takes one or two, on a machine that does much else."""

HTTP = httpx.Client(verify=False, timeout=30, limits=httpx.Limits(max_keepalive_connections=0))  # noqa: S501
"""For loopback: a connection for each call, since servers are killed, and no TLS to prepare."""


def until(condition: Callable[[], Any], *, what: str, seconds: float = PATIENCE) -> Any:
    """Wait for a condition and give its value; fail in words when it does not come."""
    deadline = time.monotonic() + seconds
    pause = 0.01
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)  # a look over HTTP takes two processes some milliseconds
    raise AssertionError(f"not within {seconds:g} s: {what}")


def tail(log: Path) -> str:
    """The end of a log."""
    return log.read_text(errors="replace")[-2000:]


class Process(abc.ABC):
    """A child that can be killed and started again with the same arguments."""

    log: Path
    pid: int | None = None
    child: BaseProcess | None = None

    @abc.abstractmethod
    def start(self, **more: str) -> None: ...

    @abc.abstractmethod
    def answers(self) -> bool: ...

    @property
    def alive(self) -> bool:
        return self.child is not None and self.child.is_alive()

    def _run(self, program: str, *arguments: str, **environ: str) -> None:
        self.child = forked.start(
            program, arguments, environ={**os.environ, **environ}, log=self.log
        )
        self.pid = self.child.pid

    def _come_up(self, name: str) -> None:
        """Wait until it answers or has ended; one that does neither is killed."""
        try:
            until(lambda: self.answers() or not self.alive, what=f"{name} answers")
        except AssertionError as error:
            self.kill()
            raise AssertionError(f"{error}; its log ends: {tail(self.log)}") from None

    def signal(self, which: signal.Signals) -> None:
        if self.alive and self.pid is not None:
            os.kill(self.pid, which)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        until(lambda: not self.alive, what="a killed process is gone")

    def stop(self) -> None:
        """End it as an operator would; one that does not end fails the test."""
        self.signal(signal.SIGTERM)
        try:
            until(lambda: not self.alive, what="the process ends on SIGTERM")
        finally:
            self.kill()


class Engine(Process):
    """A stand-in ComfyUI whose files outlive it."""

    def __init__(self, directory: Path, *options: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        models = directory / "models.json"
        models.write_text(json.dumps(standin_models(load_workflows(ROOT / "workflows"))))
        self.arguments = ["--port", str(self.port), "--directory", str(directory)]
        self.arguments += ["--models-from", str(models), *options]
        self.log = directory / "standin.log"

    def start(self, **more: str) -> None:
        self._run(forked.STANDIN, *self.arguments, **more)
        self._come_up("the stand-in")
        assert self.alive, f"the stand-in ended: {tail(self.log)}"

    def answers(self) -> bool:
        try:
            return HTTP.get(f"{self.url}/system_stats").is_success
        except httpx.HTTPError:
            return False

    def misbehave(self, mode: str, **how: Any) -> None:
        body = {"mode": mode, **how}
        HTTP.post(f"{self.url}/standin/misbehave", json=body).raise_for_status()

    def behave(self) -> None:
        """End every fault, also a run that hangs: it goes on where it stands."""
        HTTP.post(f"{self.url}/standin/behave").raise_for_status()

    def stats(self) -> dict[str, Any]:
        return dict(HTTP.get(f"{self.url}/standin/stats").json())


class Gateway(Process):
    """The gateway on a data directory of its own."""

    def __init__(self, directory: Path, engine_url: str, **settings: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        if "GATEWAY_DATABASE_URL" not in settings and not (directory / "gateway.db").exists():
            shutil.copy(empty_store(), directory / "gateway.db")
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = directory / "gateway.log"
        self.log.touch()
        self.environ = {
            "GATEWAY_PORT": str(self.port),
            "GATEWAY_DATA_DIR": str(directory),
            "GATEWAY_COMFYUI_URLS": engine_url,
            "GATEWAY_ADMISSION": "off",
            "GATEWAY_QUIET_SECONDS": "0.3",
            "GATEWAY_MIN_FREE_BYTES": "0",
            **settings,
        }

    def start(self, **more: str) -> None:
        program = CRASHING if "CRASH_AFTER" in more else forked.STEADYDANCER
        self._run(program, "serve", **{**self.environ, **more})
        self._come_up("the gateway")

    def answers(self) -> bool:
        try:
            return HTTP.get(f"{self.url}/healthz").is_success
        except httpx.HTTPError:
            return False

    def tail(self) -> str:
        return tail(self.log)

    def upload(self) -> dict[str, str]:
        """Upload the samples; gives the media fields' upload ids."""
        found = {}
        for field, name in SAMPLE_FILES.items():
            with (SAMPLES / name).open("rb") as file:
                answer = HTTP.post(f"{self.url}/v1/uploads", files={"file": file})
            assert answer.status_code in {200, 201}, answer.text
            found[field] = str(answer.json()["id"])
        return found

    def submit(
        self,
        key: str,
        *,
        workflow: str = "smoke",
        uploads: dict[str, str] | None = None,
        max_queue_seconds: float | None = None,
        max_run_seconds: float | None = None,
        priority: int = 0,
        caller: str | None = None,
        **request: Any,
    ) -> str | None:
        """Submit with an idempotency key, as a caller with an API key or as nobody.

        Returns:
            The job's id; None if the gateway died meanwhile.
        """
        body: dict[str, Any] = {"workflow": workflow, "request": request, "priority": priority}
        limits = {"max_queue_seconds": max_queue_seconds, "max_run_seconds": max_run_seconds}
        body |= {name: value for name, value in limits.items() if value is not None}
        headers = {"Idempotency-Key": key}
        if caller is not None:
            headers["Authorization"] = f"Bearer {caller}"
        url = f"{self.url}/v1/jobs"
        try:
            if uploads is not None:
                request |= {field: {"upload_id": one} for field, one in uploads.items()}
                answer = HTTP.post(url, json=body, headers=headers)
            else:
                files = {
                    field: (SAMPLES / name).read_bytes() for field, name in SAMPLE_FILES.items()
                }
                data = {"job": json.dumps(body)}
                answer = HTTP.post(url, data=data, files=files, headers=headers)
        except httpx.HTTPError:
            return None
        if answer.status_code == 503:
            return None
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def jobs(self) -> list[dict[str, Any]]:
        """Every job of the store, newest first."""
        found: list[dict[str, Any]] = []
        cursor = None
        while True:
            where = {"limit": 100, **({"cursor": cursor} if cursor else {})}
            answer = HTTP.get(f"{self.url}/v1/jobs", params=where)
            page = answer.raise_for_status().json()
            found += page["jobs"]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    def job(self, job_id: str) -> dict[str, Any]:
        answer = HTTP.get(f"{self.url}/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def status(self, job_id: str) -> str | None:
        """The job's status; None while the gateway does not answer."""
        try:
            return str(self.job(job_id)["status"])
        except httpx.HTTPError:
            return None

    def video(self, job_id: str) -> bytes:
        answer = HTTP.get(f"{self.url}/v1/jobs/{job_id}/video")
        assert answer.status_code == 200, answer.text
        return answer.content

    def events(self, job_id: str) -> list[dict[str, Any]]:
        """The whole stored log of an ended job."""
        with HTTP.stream("GET", f"{self.url}/v1/jobs/{job_id}/events") as answer:
            data = [line[6:] for line in answer.iter_lines() if line.startswith("data: ")]
        return [json.loads(text) for text in data]

    def ended(self, job_id: str, *, seconds: float = PATIENCE) -> dict[str, Any]:
        """Wait for the job's end and give it."""

        def look() -> dict[str, Any] | None:
            try:
                answer = HTTP.get(f"{self.url}/v1/jobs/{job_id}", params={"wait": 5})
            except httpx.HTTPError:
                return None
            assert answer.status_code == 200, answer.text
            job = dict(answer.json())
            return job if job["status"] in {"succeeded", "failed", "canceled"} else None

        found = until(look, seconds=seconds, what=f"job {job_id} ends; log: {self.tail()}")
        return dict(found)
