"""`steadydancer doctor` against a real server, a real disk and a real port."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.workflows.registry import load_workflows, standin_models
from tests.clikit import Ended, invoke
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]

Doctor = Callable[..., Ended]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A stand-in ComfyUI that has every model file."""
    directory = tmp_path_factory.mktemp("comfyui")
    models = directory / "models.json"
    models.write_text(json.dumps(standin_models(load_workflows(ROOT / "workflows"))))
    url = f"http://127.0.0.1:{(port := free_port())}"
    words = ["--port", str(port), "--directory", str(directory), "--models-from", str(models)]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.standin", *words], cwd=ROOT, stdout=log, stderr=log
        )
    try:
        end = time.monotonic() + 30
        while not answers(url):
            assert time.monotonic() < end, (directory / "log").read_text()
            time.sleep(0.02)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/system_stats", timeout=2).is_success
    except httpx.HTTPError:
        return False


@pytest.fixture
def doctor(
    engine: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Doctor:
    """Run `steadydancer doctor` on a machine that is well but for what a test changes."""
    environment = {
        "GATEWAY_COMFYUI_URLS": engine,
        "GATEWAY_ADMISSION": "off",
        "GATEWAY_DATA_DIR": str(tmp_path / "data"),
        "GATEWAY_PORT": str(free_port()),
    }

    def run(*words: str, **more: str) -> Ended:
        given = {**environment, **more}
        return invoke(monkeypatch, capsys, "doctor", *words, environment=given)

    return run


def checks(ended: Ended) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in json.loads(ended.stdout)["checks"]}


def test_a_machine_that_is_well_passes_and_nothing_is_written(
    doctor: Doctor, tmp_path: Path
) -> None:
    done = doctor("--json")
    assert done.returncode == 0, done.stdout
    found = checks(done)
    assert found["steadydancer models"]["status"] == "ok"
    assert not (tmp_path / "data").exists()


def test_an_engine_that_is_not_there_fails_with_advice(doctor: Doctor) -> None:
    done = doctor(GATEWAY_COMFYUI_URLS=f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert "FAIL  comfyui" in done.stdout
    assert "-> Start ComfyUI" in done.stdout


def test_without_a_card_admission_by_nvml_fails(doctor: Doctor, tmp_path: Path) -> None:
    done = doctor("--json", GATEWAY_ADMISSION="nvml", GATEWAY_GPUS="GPU-none")
    assert done.returncode == 1
    assert checks(done)["gpu"]["status"] == "fail"
    assert checks(done)["gpu"]["advice"]


def test_a_port_that_something_else_holds_fails(doctor: Doctor, engine: str) -> None:
    port = engine.rsplit(":", 1)[1]
    done = doctor("--json", GATEWAY_PORT=port)
    assert done.returncode == 1
    assert checks(done)[f"port {port}"]["status"] == "fail"


def test_model_files_are_looked_for_in_the_folder_too(doctor: Doctor, tmp_path: Path) -> None:
    done = doctor("--json", GATEWAY_MODELS_DIR=str(tmp_path))
    found = checks(done)["steadydancer files"]
    assert found["status"] == "fail"
    assert f"--models-dir {tmp_path}" in found["advice"]


def test_a_workflow_that_cannot_be_used_fails_and_the_rest_is_still_looked_at(
    doctor: Doctor, tmp_path: Path
) -> None:
    done = doctor("--json", GATEWAY_WORKFLOWS_DIR=str(tmp_path))
    found = checks(done)
    assert found["workflows"]["status"] == "fail"
    assert "clock" in found


def test_listening_for_all_without_a_key_fails(doctor: Doctor) -> None:
    assert checks(doctor("--json", GATEWAY_HOST="0.0.0.0"))["settings"]["status"] == "fail"
