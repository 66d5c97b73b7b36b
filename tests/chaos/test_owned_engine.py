"""An engine that the gateway starts, watches, adopts and stops: never two, never none."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.comfy.supervisor import marked, start_time
from app.workflows.registry import load_workflows, standin_models
from tests.chaos.processes import HTTP, ROOT, Gateway, until
from tests.ports import free_port


class Owner(Gateway):
    """A gateway with an engine of its own."""

    def __init__(self, directory: Path, **settings: str) -> None:
        port = free_port()
        self.engine_url = f"http://127.0.0.1:{port}"
        self.engine_directory = directory / "engine-files"
        self.engine_directory.mkdir(parents=True)
        models = directory / "models.json"
        models.write_text(json.dumps(standin_models(load_workflows(ROOT / "workflows"))))
        command = (
            f"{sys.executable} -m app.standin --port {{port}} --listen {{host}} --no-work "
            f"--directory {self.engine_directory} --step-seconds 0.1 --models-from {models}"
        )
        super().__init__(
            directory / "gateway",
            self.engine_url,
            GATEWAY_COMFYUI_COMMAND=command,
            GATEWAY_INTERRUPT_SECONDS="5",
            GATEWAY_COMFYUI_DIR=str(self.engine_directory),
            **settings,
        )

    @property
    def engine_pid(self) -> int:
        return marked(str((self.directory / "engines" / "engine-0.log").resolve())) or 0

    def ready(self) -> bool:
        try:
            system = HTTP.get(f"{self.url}/v1/system").json()
        except httpx.HTTPError:
            return False
        return bool(system["engines"][0]["state"] == "ready")

    def misbehave(self, mode: str, **how: int) -> None:
        url = f"{self.engine_url}/standin/misbehave"
        HTTP.post(url, json={"mode": mode, **how}).raise_for_status()

    def dance(self, key: str, steps: int = 4) -> str:
        mode = "quality" if steps > 8 else "fast"
        job_id = self.submit(
            key, workflow="steadydancer", prompt="dancing", frames=5, mode=mode, steps=steps
        )
        assert job_id is not None
        return job_id

    def until_running(self, job_id: str) -> None:
        until(lambda: self.job(job_id)["started_at"], what="the job runs")

    def losses(self, job_id: str) -> list[str]:
        found = (event["data"] for event in self.events(job_id))
        return [data["loss"] for data in found if "loss" in data]


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    owner = Owner(tmp_path)
    owner.start()
    until(owner.ready, what="the gateway's engine is ready")
    yield owner
    pid = owner.engine_pid
    owner.kill()
    if pid and start_time(pid) is not None:
        os.kill(pid, signal.SIGKILL)


def test_an_engine_that_outlives_a_killed_gateway_is_adopted_with_its_running_job(
    owner: Owner,
) -> None:
    job_id = owner.dance("adopted", steps=40)
    owner.until_running(job_id)
    pid = owner.engine_pid
    owner.kill()
    assert start_time(pid) is not None, "the engine died with the gateway"
    owner.start()
    job = owner.ended(job_id)
    assert owner.engine_pid == pid, "a second engine was started"
    assert (job["status"], job["attempt"]) == ("succeeded", 1)


def test_an_engine_that_dies_is_started_again_and_the_job_is_run_again(owner: Owner) -> None:
    job_id = owner.dance("died", steps=40)
    owner.until_running(job_id)
    pid = owner.engine_pid
    os.kill(pid, signal.SIGKILL)
    job = owner.ended(job_id)
    assert job["status"] == "succeeded", job["error"]
    assert owner.losses(job_id) == ["engine-died"]
    assert owner.engine_pid != pid


def test_a_clean_stop_ends_the_engine_and_requeues_its_job_without_counting_it(
    owner: Owner,
) -> None:
    job_id = owner.dance("stopped", steps=40)
    owner.until_running(job_id)
    pid = owner.engine_pid
    owner.stop()
    assert start_time(pid) is None, "the engine was left behind"
    owner.start()
    job = owner.ended(job_id)
    assert job["status"] == "succeeded", job["error"]
    assert owner.losses(job_id) == ["stopped-by-us"]


def test_a_cuda_fault_restarts_the_engine_before_anything_else_runs(owner: Owner) -> None:
    pid = owner.engine_pid
    owner.misbehave("cuda_fault", times=1)
    first, second = owner.dance("faulted"), owner.dance("after")
    assert owner.ended(first)["error"]["type"] == "cuda-fault"
    assert owner.ended(second)["status"] == "succeeded"
    assert owner.engine_pid != pid


def test_an_engine_that_is_deaf_to_an_interrupt_is_restarted(owner: Owner) -> None:
    pid = owner.engine_pid
    owner.misbehave("deaf", times=1)
    job_id = owner.dance("deaf")
    until(lambda: owner.job(job_id)["phase"] == "sampling", what="it samples")
    HTTP.post(f"{owner.url}/v1/jobs/{job_id}/cancel")
    assert owner.ended(job_id)["status"] == "canceled"
    after = owner.dance("after")
    assert owner.ended(after)["status"] == "succeeded"
    assert owner.engine_pid != pid


def test_an_idle_engine_that_answers_no_more_is_replaced(tmp_path: Path) -> None:
    owner = Owner(tmp_path, GATEWAY_ENGINE_SILENT_SECONDS="5", GATEWAY_STOP_SECONDS="1")
    owner.start()
    until(owner.ready, what="the engine is ready")
    pid = owner.engine_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        job_id = owner.dance("after-the-silence")
        assert owner.ended(job_id)["status"] == "succeeded"
        assert owner.engine_pid != pid
        assert start_time(pid) is None, "the frozen engine was left behind"
    finally:
        owner.stop()


def test_a_failed_job_keeps_the_end_of_the_engines_log(owner: Owner) -> None:
    owner.misbehave("raise", times=1)
    job_id = owner.dance("raised")
    assert owner.ended(job_id)["status"] == "failed"
    attempts = HTTP.get(f"{owner.url}/v1/jobs/{job_id}/attempts")
    assert attempts.status_code == 200, attempts.text
    assert "log_tail" in attempts.text
