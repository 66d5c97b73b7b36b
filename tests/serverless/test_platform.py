"""The SDK's own loop, as on RunPod: it takes jobs, tells, is told to stop one, and ends.

The platform is made from the calls that the SDK 1.12.0 makes (job-take, job-done, job-stop): from
its code, not recorded of RunPod.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import pytest

from tests.chaos.processes import Engine, until
from tests.livekit import environment


@dataclass
class Platform:
    """What RunPod is to a worker.

    Attributes:
        jobs: What is to be taken.
        stops: Ids of jobs to stop.
        heard: What came for each job, in order.
    """

    engine: Engine
    log: Path
    jobs: SimpleQueue[Any] = field(default_factory=SimpleQueue)
    stops: SimpleQueue[Any] = field(default_factory=SimpleQueue)
    heard: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def run(self, job_id: str, media: dict[str, Any]) -> None:
        """Have a job taken."""
        self.jobs.put({"id": job_id, "input": {"workflow": "smoke", "request": media}})

    def told(self, job_id: str) -> list[dict[str, Any]]:
        """Progress of a job."""
        return [body["output"] for name, body in self.heard if name == job_id and "status" in body]

    def answer(self, job_id: str) -> dict[str, Any]:
        """Wait for a job's result."""

        def found() -> list[dict[str, Any]]:
            return [body for name, body in self.heard if name == job_id and "status" not in body]

        until(lambda: bool(found()), seconds=60, what=f"{job_id} is answered")
        return found()[0]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    directory = tmp_path_factory.mktemp("platform")
    engine = Engine(directory / "engine", "--no-work", "--step-seconds", "0.02", "--probe-nodes")
    engine.start()
    platform = Platform(engine, directory / "worker.log")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_take = "/job-take/" in self.path
            try:
                found = (platform.jobs if is_take else platform.stops).get(timeout=0.5)
            except Empty:
                self.send_response(204)
                self.end_headers()
                return
            self._say(found if is_take else {"jobsToStop": [found]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            platform.heard.append((self.path.split("/")[3].partition("?")[0], body))
            self._say({})

        def _say(self, answer: dict[str, Any]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    with platform.log.open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serverless"],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(
                GATEWAY_DATA_DIR=str(directory / "gateway"),
                GATEWAY_COMFYUI_URLS=engine.url,
                GATEWAY_ADMISSION="off",
                GATEWAY_MIN_FREE_BYTES="0",
                RUNPOD_WEBHOOK_GET_JOB=f"{url}/job-take/$ID?gpu=none",
                RUNPOD_WEBHOOK_POST_OUTPUT=f"{url}/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
                RUNPOD_POD_ID="pod",
                RUNPOD_SKIP_AUTO_SYSTEM_CHECKS="true",
            ),
        )
    yield platform
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0, platform.log.read_text()
    server.shutdown()
    server.server_close()
    engine.kill()


def test_a_job_is_taken_told_of_and_answered(platform: Platform, media: dict[str, Any]) -> None:
    platform.run("first", media)
    answer = platform.answer("first")
    assert answer["output"]["job"]["status"] == "succeeded"
    assert answer["output"]["video"]["base64"]
    assert "fraction" in platform.told("first")[0]
    last = [body for name, body in platform.heard if name == "first"][-1]
    assert "status" not in last, "progress after the result leaves a job in progress for ever"
    assert answer["output"]["video"]["base64"] not in platform.log.read_text()


def test_a_job_that_is_stopped_leaves_comfyui_to_the_next(
    platform: Platform, media: dict[str, Any]
) -> None:
    platform.engine.misbehave("hang", times=1)
    platform.run("stopped", media)
    until(
        lambda: any(news["phase"] == "encoding" for news in platform.told("stopped")),
        seconds=60,
        what="it runs",
    )
    platform.stops.put("stopped")
    platform.run("next", media)
    assert platform.answer("next")["output"]["job"]["status"] == "succeeded"
    assert not [body for name, body in platform.heard if name == "stopped" and "error" in body]


def test_after_a_fault_of_the_gpu_the_worker_is_replaced(
    platform: Platform, media: dict[str, Any]
) -> None:
    platform.engine.misbehave("cuda_fault", times=1)
    platform.run("faulted", media)
    answer = platform.answer("faulted")
    assert answer["stopPod"] is True
    assert json.loads(answer["error"])["code"] == "cuda-fault"
