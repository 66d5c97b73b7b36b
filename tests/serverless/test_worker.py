"""What a worker of RunPod Serverless answers, and what it leaves behind."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from app.endpoint import Remote
from app.errors import Misconfigured
from app.jobs import heard
from app.jobs.outcome import Failed
from app.serverless.storage import VideoStore
from app.serverless.worker import Worker, settings_of_worker
from app.settings import Settings
from tests.serverless.conftest import PATIENCE, Bench, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


def problem(answer: dict[str, Any]) -> dict[str, Any]:
    """The problem in an answer. RunPod takes nothing but a text for an error."""
    assert isinstance(answer["error"], str)
    found: dict[str, Any] = json.loads(answer["error"])
    return found


async def test_what_an_earlier_process_left_is_canceled_and_not_run(bench: Bench) -> None:
    async with asyncio.timeout(PATIENCE):
        while await bench.jobs() != ["canceled", "canceled"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_request_is_answered_with_the_job_and_its_video(bench: Bench) -> None:
    answer = await bench.handler(bench.ask(request={"width": 80}))
    assert answer["job"]["status"] == "succeeded", answer
    assert answer["job"]["request"]["width"] == 80
    video = answer["video"]
    data = base64.b64decode(video["base64"])
    assert (len(data), hashlib.sha256(data).hexdigest()) == (video["bytes"], video["sha256"])
    assert (video["media_type"], video["width"], video["frames"]) == ("video/mp4", 80, 17)
    assert "refresh_worker" not in answer
    found = heard.made(Remote(id="x", status="COMPLETED", output=answer))
    assert found is not None, "the gateway's other end does not understand it"
    assert found[0].sha256 == video["sha256"]
    assert bench.told
    assert heard.report(Remote(id="x", status="IN_PROGRESS", output=bench.told[0])) is not None
    assert {"phase", "fraction"} <= set(bench.told[0])


@pytest.mark.parametrize(
    ("given", "code", "pointers"),
    [
        (None, "invalid-request", {"/input"}),
        ({"request": {}, "webhook": {}}, "invalid-request", {"/input/webhook"}),
        (
            {"workflow": "smoke", "request": {"width": 65}},
            "invalid-request",
            {
                "/input/request/width",
                "/input/request/reference_image",
                "/input/request/driving_video",
            },
        ),
        ({"workflow": "x", "request": {}}, "unknown-workflow", {"/input/workflow"}),
    ],
)
async def test_a_request_that_breaks_a_rule_is_refused_with_pointers_into_runpods_body(
    bench: Bench, given: object, code: str, pointers: set[str]
) -> None:
    answer = await bench.handler({"id": "a-job", "input": given})
    found = problem(answer)
    assert found["code"] == code
    assert isinstance(heard.failure(Remote(id="x", status="FAILED", **answer)), heard.Declined)
    assert {fault["pointer"] for fault in found["errors"]} == pointers


async def test_a_job_that_fails_says_why(bench: Bench) -> None:
    await bench.engine.misbehave("raise", times=1)
    answer = await bench.handler(bench.ask())
    assert problem(answer)["code"] == "execution-error"
    assert problem(answer)["advice"]
    outcome = heard.failure(Remote(id="x", status="FAILED", **answer))
    assert isinstance(outcome, Failed)
    assert outcome.note.type == "execution-error"
    assert "refresh_worker" not in answer


async def test_a_cancel_takes_the_prompt_out_of_comfyui_before_the_next_job(bench: Bench) -> None:
    bench.told.clear()
    await bench.engine.misbehave("hang", times=1)
    task = asyncio.ensure_future(bench.handler(bench.ask()))
    await until(lambda: any(news["phase"] == "encoding" for news in bench.told) or task.done())
    task.cancel()  # as the SDK does when RunPod tells it to stop a job
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await bench.jobs())[-1] == "canceled"
    assert await bench.engine.remaining() == 0
    assert (await bench.handler(bench.ask()))["job"]["status"] == "succeeded"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """S3-compatible storage with one bucket, named by the variables of every S3 client."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    for name, value in {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": url,
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(urllib.request.Request(f"{url}/videos", method="PUT")).close()  # noqa: S310
    yield "s3://videos/made"
    server.stop()


async def test_a_video_too_large_for_an_answer_is_uploaded_and_linked(
    bench: Bench, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(bench, monkeypatch)
    monkeypatch.setattr(bench.worker, "_videos", VideoStore(bucket, link_seconds=60))
    video = (await bench.handler(bench.ask()))["video"]
    assert "base64" not in video

    def fetch() -> tuple[str, bytes]:
        with urllib.request.urlopen(video["url"]) as answer:  # noqa: S310
            return answer.headers["Content-Type"], answer.read()

    kind, data = await asyncio.to_thread(fetch)
    assert kind == "video/mp4"
    assert hashlib.sha256(data).hexdigest() == video["sha256"]


async def test_without_storage_it_says_what_to_set(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(bench, monkeypatch)
    found = problem(await bench.handler(bench.ask()))
    assert found["code"] == "payload-too-large"
    assert "GATEWAY_SERVERLESS_STORE" in found["detail"]


def limited(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no video fit into an answer."""
    changed = bench.worker._settings.model_copy(update={"serverless_answer_bytes": 100})
    monkeypatch.setattr(bench.worker, "_settings", changed)


async def test_a_fault_of_the_gpu_costs_the_worker(bench: Bench) -> None:
    """The last with this worker: it is good for nothing afterwards."""
    await bench.engine.misbehave("cuda_fault", times=1)
    answer = await bench.handler(bench.ask())
    assert problem(answer)["code"] == "cuda-fault"
    assert answer["refresh_worker"] is True


async def test_a_store_that_is_no_bucket_is_refused_at_the_start(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, admission="off", serverless_store="file:///tmp/x")
    with pytest.raises(Misconfigured, match="bucket"):
        Worker(settings, on_crash=lambda: None)


async def test_a_worker_is_reached_by_nobody_and_sends_nothing_on() -> None:
    settings = Settings(
        host="0.0.0.0",
        make_first_key=True,
        proxy_command=("nginx",),
        serverless_url="https://api.runpod.ai/v2/x",
        serverless_key="k",
    )
    changed = settings_of_worker(settings)
    assert (changed.host, changed.make_first_key, changed.proxy_command) == ("127.0.0.1", False, ())
    assert changed.serverless_url is None
