"""RunPod's own local server (`--rp_serve_api`) in front of the handler and a stand-in ComfyUI.

The server is the SDK's: what it does with an answer is what the SDK does on RunPod. It has no
/cancel and no /health, takes /status by POST, and runs a job only when its status is asked.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.chaos.processes import Engine, until
from tests.livekit import environment
from tests.ports import free_port


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The SDK's server as a process, the way a developer starts it."""
    directory = tmp_path_factory.mktemp("local")
    engine = Engine(directory / "engine", "--no-work", "--step-seconds", "0.02", "--probe-nodes")
    engine.start()
    port = free_port()
    with (directory / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "app.cli", "serverless"),
                *("--rp_serve_api", "--rp_api_port", str(port), "--rp_api_host", "127.0.0.1"),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(
                GATEWAY_DATA_DIR=str(directory / "gateway"),
                GATEWAY_COMFYUI_URLS=engine.url,
                GATEWAY_ADMISSION="off",
                GATEWAY_MIN_FREE_BYTES="0",
            ),
        )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:

        def answers() -> bool:
            assert process.poll() is None, (directory / "worker.log").read_text()
            try:
                return client.get("/openapi.json").status_code == 200
            except httpx.TransportError:
                return False

        until(answers, seconds=60, what="the SDK's server answers")
        yield client
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0, (directory / "worker.log").read_text()
    engine.kill()


def test_runsync_gives_the_job_and_its_video(local: httpx.Client, media: dict[str, Any]) -> None:
    request = {"workflow": "smoke", "request": media, "max_run_seconds": 60}
    answer = local.post("/runsync", json={"input": request}).json()
    assert answer["status"] == "COMPLETED", answer
    assert answer["output"]["job"]["status"] == "succeeded"
    assert answer["output"]["video"]["base64"]


def test_run_gives_an_id_and_status_what_became_of_it(
    local: httpx.Client, media: dict[str, Any]
) -> None:
    refused = {"workflow": "smoke", "request": {**media, "width": 65}}
    ran = local.post("/run", json={"input": refused}).json()
    answer = local.post(f"/status/{ran['id']}").json()
    assert (answer["id"], answer["status"]) == (ran["id"], "FAILED")
    problem = json.loads(answer["error"])
    assert problem["code"] == "invalid-request"
    assert [fault["pointer"] for fault in problem["errors"]] == ["/input/request/width"]
