"""Commands that need no gateway, and the one that is it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.client import GatewayClient, JobRequest, Retry
from app.workflows.registry import load_workflows
from tests import forked
from tests.chaos.processes import until
from tests.cli.conftest import Command, as_process
from tests.livekit import FILES, ROOT, environment


def test_help_lists_the_commands_and_each_helps(alone: Command) -> None:
    run = alone("--help")
    assert "Exit codes" in run.stdout
    for name in ("serve", "demo", "submit", "status", "watch", "download", "cancel", "list"):
        assert f"│ {name} " in run.stdout


@pytest.mark.parametrize(
    "name", ["submit", "status", "watch", "download", "cancel", "list", "demo"]
)
def test_help_has_examples(alone: Command, name: str) -> None:
    run = alone(name, "--help")
    assert run.returncode == 0
    assert f"steadydancer {name}" in run.stdout


def test_help_imports_none_of_what_is_heavy() -> None:
    code = (
        "import sys, app.cli.main; "
        "print([m for m in ('pydantic', 'fastapi', 'httpx', 'sqlalchemy', 'av')"
        " if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_version(alone: Command) -> None:
    assert (
        alone("version").stdout.strip() == json.loads(alone("version", "--json").stdout)["version"]
    )


def test_the_graph_of_a_request_needs_no_server(alone: Command) -> None:
    request = {"prompt": "{{not a template}}", "steps": 6, "seed": 7}
    run = alone("workflows", "render", "steadydancer", "--request", "-", stdin=json.dumps(request))
    assert run.returncode == 0, run.stderr
    workflow = load_workflows(ROOT / "workflows").get("steadydancer")
    resolved = workflow.resolve(request, {}, seed=0)
    wanted = workflow.render(
        resolved.request, {name: name for name in workflow.media}, prefix="PREFIX"
    )
    assert json.loads(run.stdout) == wanted
    assert "{{not a template}}" in run.stdout


def test_a_request_that_breaks_a_rule_renders_nothing(alone: Command) -> None:
    run = alone("workflows", "render", "steadydancer", "--request", "-", stdin='{"prompt": 5}')
    assert run.returncode == 2
    assert run.stdout == ""
    assert "prompt is 5" in run.stderr


def test_the_api_document_is_printed_without_starting_anything(
    alone: Command, tmp_path: Path
) -> None:
    run = alone("openapi")
    assert run.returncode == 0, run.stderr
    document = json.loads(run.stdout)
    assert document["paths"]["/v1/jobs"]["post"]["operationId"] == "submit_job"
    assert not (tmp_path / "data").exists()


def test_keys_are_made_listed_and_revoked_without_a_gateway(alone: Command) -> None:
    made = json.loads(alone("keys", "create", "ops", "--scope", "admin", "--json").stdout)
    assert made["key"].startswith("sd_")
    assert made["scopes"] == ["admin"]
    listed = alone("keys", "list")
    assert "ops" in listed.stdout
    assert made["key"] not in listed.stdout
    assert alone("keys", "revoke", made["id"]).returncode == 0
    assert "revoked" in alone("keys", "list").stdout
    unknown = alone("keys", "revoke", "0123")
    assert unknown.returncode == 2
    assert "no API key" in unknown.stderr


def own(folder: Path) -> dict[str, str]:
    """A data directory of the test's own, and no GPU."""
    return {"GATEWAY_ADMISSION": "off", "GATEWAY_DATA_DIR": str(folder / "data")}


class Serving:
    """`steadydancer serve` in front of an engine that is not there."""

    def __init__(self, folder: Path, *words: str, **environ: str) -> None:
        self.log, self.out = folder / "serve.log", folder / "serve.out"
        self.process = forked.start(
            forked.STEADYDANCER,
            ["serve", *words],
            environ=environment(
                GATEWAY_DATA_DIR=str(folder / "data"),
                GATEWAY_ADMISSION="off",
                GATEWAY_COMFYUI_URLS="http://127.0.0.1:9",
                GATEWAY_MIN_FREE_BYTES="0",
                **environ,
            ),
            log=self.log,
            out=self.out,
            folder=folder,
        )

    def announced(self) -> dict[str, Any]:
        def line() -> str:
            assert self.process.is_alive(), self.log.read_text()
            return self.out.read_text() if self.out.exists() else ""

        return dict(json.loads(until(lambda: line().endswith("\n") and line(), what="its line")))

    def end(self, which: signal.Signals = signal.SIGTERM) -> int | None:
        assert self.process.pid is not None
        os.kill(self.process.pid, which)
        self.process.join(120)
        self.close()
        return self.process.exitcode

    def close(self) -> None:
        self.process.kill()
        self.process.join()


def _open_calls(url: str) -> float:
    """Requests that are being answered, this one included."""
    text = httpx.get(f"{url}/metrics", timeout=60).text
    name = "steadydancer_http_requests_in_progress "
    return float(next(line for line in text.splitlines() if line.startswith(name)).split()[1])


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_the_gateway_ends_at_once_and_in_order_though_somebody_waits(
    tmp_path: Path, which: signal.Signals
) -> None:
    serving = Serving(tmp_path, "--port", "0", "--announce", GATEWAY_STOP_SECONDS="60")
    told = serving.announced()
    assert told["pid"] == serving.process.pid
    answered: list[int] = []
    with GatewayClient(told["url"], retry=Retry(seconds=0)) as client:
        job = client.submit(JobRequest(workflow="smoke", request={}), files=FILES)
        path = f"{told['url']}/v1/jobs/{job.id}"

        def wait_long() -> None:
            answered.append(httpx.get(path, params={"wait": 60}, timeout=120).status_code)

        until(lambda: client.get(job.id).phase == "waiting_for_engine", what="it waits")
        with httpx.stream("GET", f"{path}/events", timeout=60) as events:
            lines = events.iter_lines()
            assert any("job.queued" in line for line in lines)
            waiting = threading.Thread(target=wait_long)
            waiting.start()
            until(lambda: _open_calls(told["url"]) >= 3, what="both are being answered")
            began = time.monotonic()
            assert serving.end(which) == 0
            assert time.monotonic() - began < 50
            list(lines)  # ends, and is not cut off
        waiting.join(90)
    assert answered == [200]
    assert "Traceback" not in serving.log.read_text()


def test_a_taken_port_is_said_in_words(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        run = as_process(tmp_path, "serve", "--port", port, GATEWAY_ADMISSION="off")
    assert run.returncode == 2
    assert f"Cannot listen on 127.0.0.1 port {port}" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    run = as_process(tmp_path, "serve", GATEWAY_PORT="eighty")
    assert run.returncode == 2
    assert "GATEWAY_PORT" in run.stderr
    assert "'eighty'" in run.stderr


def test_reachable_by_others_it_wants_a_key_first(tmp_path: Path) -> None:
    run = as_process(tmp_path, "serve", "--host", "0.0.0.0", "--port", "0", **own(tmp_path))
    assert run.returncode == 2
    assert "steadydancer keys create" in run.stderr
    assert "Traceback" not in run.stderr


def test_two_gateways_do_not_share_a_data_directory(tmp_path: Path) -> None:
    first = Serving(tmp_path, "--port", "0", "--announce")
    first.announced()
    try:
        run = as_process(tmp_path, "serve", "--port", "0", **own(tmp_path))
        assert run.returncode == 2
        assert "Another gateway" in run.stderr
    finally:
        first.close()


def test_without_a_gpu_it_says_what_to_do(tmp_path: Path) -> None:
    run = as_process(tmp_path, "serve", "--port", "0", GATEWAY_DATA_DIR=str(tmp_path / "data"))
    if run.returncode == 0:
        pytest.skip("this machine has a GPU")
    assert run.returncode == 2
    assert "GATEWAY_ADMISSION" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_job_for_an_engine_that_is_away_waits_and_says_so(tmp_path: Path) -> None:
    serving = Serving(tmp_path, "--port", "0", "--announce")
    url = serving.announced()["url"]
    try:
        with GatewayClient(url, retry=Retry(seconds=0)) as client:
            assert not client.ready().ready
            job = client.submit(JobRequest(workflow="smoke", request={}), files=FILES)
            until(
                lambda: client.get(job.id).phase == "waiting_for_engine",
                what="the job says what it waits for",
            )
    finally:
        serving.close()
