"""Gateway and stand-in as processes, and a store that is already full."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa
from sqlmodel import insert

from app.database import Database
from app.gpu.tables import VramSample
from app.jobs.tables import Job, JobLabel
from app.schema import upgrade
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "docs" / "samples"
NOBODY = "http://127.0.0.1:9"
SMALL = {"prompt": "a person is dancing", "width": 256, "height": 448, "frames": 33}
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
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def answers(url: str, child: subprocess.Popen[bytes], log: Path, *, seconds: float = 30) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and child.poll() is None:
        try:
            httpx.get(url, timeout=2)
        except httpx.HTTPError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"{url} does not answer: {log.read_text(errors='replace')[-3000:]}")


class Engine:
    """A stand-in with all models of the shipped workflows; it can be stopped and started."""

    def __init__(self, directory: Path, *, models: dict[str, Any], step_seconds: float) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        (directory / "models.json").write_text(json.dumps(models))
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._step_seconds = step_seconds

    @contextmanager
    def running(self) -> Iterator[None]:
        log = self._directory / "standin.log"
        command = [sys.executable, "-m", "app.standin", "--port", str(self.port)]
        command += ["--directory", str(self._directory)]
        command += ["--models-from", str(self._directory / "models.json")]
        command += ["--step-seconds", str(self._step_seconds)]
        command += ["--vram-total-mib", "24576", "--need-mib", "7000"]
        with process(command, log) as child:
            answers(f"{self.url}/system_stats", child, log)
            yield

    def misbehave(self, mode: str, **how: Any) -> None:
        body = {"mode": mode, **how}
        httpx.post(f"{self.url}/standin/misbehave", json=body, timeout=5).raise_for_status()

    def behave(self) -> None:
        """End every fault, also a run that hangs: it goes on where it stands."""
        httpx.post(f"{self.url}/standin/behave", timeout=5).raise_for_status()


class Gateway:
    """A gateway with a simulated card, or without one, on a store of its own."""

    def __init__(
        self, directory: Path, engine_url: str, *, card: bool = False, **settings: str
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._engine_url = engine_url
        self._card = card
        self._settings = settings
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.others = directory / "others.txt"
        self.others.write_text("3000")

    @contextmanager
    def running(self) -> Iterator[None]:
        log = self.directory / "gateway.log"
        command = [sys.executable, "-m", "tests.dashboard.launcher"]
        if not self._card:
            command = [sys.executable, "-m", "app.cli", "serve"]
        with process(
            command,
            log,
            GATEWAY_PORT=str(self.port),
            GATEWAY_DATA_DIR=str(self.directory),
            GATEWAY_COMFYUI_URLS=self._engine_url,
            GATEWAY_ADMISSION="nvml" if self._card else "off",
            GATEWAY_QUIET_SECONDS="0.3",
            GATEWAY_MIN_FREE_BYTES="0",
            OTHERS_FILE=str(self.others),
            **self._settings,
        ) as child:
            answers(f"{self.url}/healthz", child, log)
            yield

    def get(self, path: str, **headers: str) -> dict[str, Any]:
        answer = httpx.get(f"{self.url}{path}", headers=headers, timeout=10)
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
            answer = httpx.post(
                f"{self.url}/v1/jobs",
                headers=headers,
                data={"job": json.dumps({"workflow": workflow, "request": request, **more})},
                files={"reference_image": photo, "driving_video": dance},
                timeout=30,
            )
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def call(self, method: str, path: str, **headers: str) -> int:
        """Call without a body; the status."""
        return httpx.request(method, f"{self.url}{path}", headers=headers, timeout=10).status_code

    def until(self, job_id: str, *statuses: str, seconds: float = 30) -> dict[str, Any]:
        """Wait until a job has one of these statuses."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            job = self.get(f"/v1/jobs/{job_id}?wait=2")
            if job["status"] in statuses:
                return job
        raise AssertionError(f"job {job_id} is still {job['status']}")


def fill(directory: Path, jobs: int, *, migrations: Path = ROOT / "migrations") -> None:
    """Make a store with so many jobs: the newest tenth is queued, the rest has ended."""
    directory.mkdir(parents=True)
    database = Database(f"sqlite:///{directory / 'gateway.db'}")
    upgrade(database.engine, migrations)
    start = datetime.now(UTC) - timedelta(days=20)
    step = timedelta(days=20) / jobs
    rows = [_row(number, start + number * step, total=jobs) for number in range(jobs)]
    with database.engine.begin() as connection:
        connection.execute(sa.text("PRAGMA foreign_keys=OFF"))
        for at in range(0, jobs, 1000):
            some = rows[at : at + 1000]
            connection.execute(insert(Job), some)
            connection.execute(
                insert(JobLabel),
                [
                    {"job_id": row["id"], "key": "name", "value": row["labels"]["name"]}
                    for row in some
                ],
            )
        connection.execute(insert(VramSample), [_sample(start)])
    database.close()


def _sample(at: datetime) -> dict[str, Any]:
    shape = {"workflow": "steadydancer", "variant": "q4_k_m/fast", "width": 480, "height": 832}
    card = {"card": "Simulated 24 GB card", "card_mib": 23_684}
    seen = {"peak_mib": 12_288, "oom": False, "source": "process", "at": at}
    return {**shape, "frames": 81, **card, **seen}


def _row(number: int, at: datetime, *, total: int) -> dict[str, Any]:
    queued = number >= total * 9 // 10
    failed = number % 5 == 0
    milliseconds = int(at.timestamp() * 1000)
    text = f"{milliseconds:012x}7{number % 4096:03x}8{number:015x}"
    error = {
        "type": "out-of-memory",
        "title": "The GPU ran out of memory",
        "detail": "There was not enough GPU memory.",
        "advice": "Ask for a smaller size or fewer frames.",
        "retryable": True,
    }
    status = "queued" if queued else "failed" if failed else "canceled"
    return {
        "id": f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:32]}",
        "workflow": "smoke" if number % 3 else "steadydancer",
        "status": status,
        "phase": "waiting_for_engine" if queued else None,
        "request": {"prompt": f"dance number {number}", "width": 480, "height": 832},
        "labels": {"name": f"job {number}"},
        "warnings": [],
        "created_at": at,
        "finished_at": None if queued else at + timedelta(minutes=3),
        "error": error if status == "failed" else None,
    }
