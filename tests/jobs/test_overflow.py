"""Jobs that wait too long go to a serverless endpoint, and come back as if they had run here."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from app.errors import Misconfigured
from app.gateway import Gateway
from app.jobs import overflow, remote
from app.settings import Settings
from tests.apikit import NOBODY, World, opened, until
from tests.conftest import Clock
from tests.jobs.runpod import KEY, FakeEndpoint, completed, fake_endpoint
from tests.mediakit import image_bytes, make_video

AGE = 60.0
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A photo, a dance, and what a smoke run makes of them by default."""
    directory = tmp_path_factory.mktemp("made")
    return {
        "photo": image_bytes(),
        "dance": make_video(directory / "dance.mp4", frames=48, fps=24).read_bytes(),
        "video": make_video(
            directory / "video.mp4", width=64, height=112, frames=18, fps=16
        ).read_bytes(),
    }


@pytest.fixture(scope="module")
def endpoint() -> Iterator[FakeEndpoint]:
    with pytest.MonkeyPatch.context() as patch, fake_endpoint() as fake:
        patch.setattr(remote, "_POLL_SECONDS", 0.02)
        patch.setattr(overflow, "_TROUBLE_SECONDS", 0.0)
        yield fake


@dataclass
class Bench:
    """A gateway whose own engine never answers, and an endpoint."""

    world: World
    endpoint: FakeEndpoint
    clock: Clock
    media: dict[str, Any]
    video: bytes

    async def old_job(self, **more: Any) -> str:
        """A job that has waited too long."""
        made = await self.world.job(media=self.media, **more)
        self.clock.advance(AGE)
        return str(made["id"])

    async def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self.world.http.get(f"/v1/jobs/{job_id}")).json()
        return found

    async def cancel(self, job_id: str) -> dict[str, Any]:
        answer = await self.world.http.post(f"/v1/jobs/{job_id}/cancel")
        found: dict[str, Any] = answer.json()
        return found

    async def reach(self, job_id: str, **wanted: Any) -> dict[str, Any]:
        """Wait until a job shows this."""
        seen: dict[str, Any] = {}

        async def there() -> bool:
            seen.update(await self.job(job_id))
            return all(seen[name] == value for name, value in wanted.items())

        try:
            await until(there)
        except TimeoutError:
            pytest.fail(f"{wanted} was not reached: {seen}")
        return seen

    async def engine(self) -> dict[str, Any]:
        engines: list[dict[str, Any]] = (await self.world.http.get("/v1/system")).json()["engines"]
        return next(one for one in engines if one["name"] == "serverless")

    async def says(self, words: str) -> None:
        """Wait until the engine's view says this of the queue."""

        async def said() -> bool:
            return words in str((await self.engine())["admission"])

        await until(said)


@asynccontextmanager
async def bench_on(
    data: Path, endpoint: FakeEndpoint, made: dict[str, bytes], clock: Clock
) -> AsyncIterator[Bench]:
    settings = Settings(
        data_dir=data,
        admission="off",
        comfyui_urls=(NOBODY,),
        min_free_bytes=0,
        serverless_url=endpoint.url,
        serverless_key=KEY,
        overflow_seconds=AGE,
        serverless_jobs=1,
        interrupt_seconds=2,
    )
    gateway = Gateway(settings, now=clock)
    its = gateway.overflow
    assert its is not None
    its._tick_seconds = its._look_seconds = 0.02
    async with opened(settings, made["photo"], made["dance"], gateway=gateway) as world:
        await until(lambda: its.state == "ready")
        yield Bench(world, endpoint, clock, await world.media(), made["video"])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Path:
    data = tmp_path_factory.mktemp("overflow") / "data"
    data.mkdir()
    shutil.copy(migrated, data / "gateway.db")
    return data


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened_once(
    data: Path, endpoint: FakeEndpoint, made: dict[str, bytes]
) -> AsyncIterator[Bench]:
    async with bench_on(data, endpoint, made, Clock()) as bench:
        yield bench


@pytest.fixture
def bench(opened_once: Bench) -> Bench:
    """The gateway of all these tests, with an endpoint that has seen nothing."""
    endpoint = opened_once.endpoint
    endpoint.sent.clear()
    endpoint.canceled.clear()
    endpoint.next, endpoint.run_status = {"status": "IN_QUEUE"}, 200
    return opened_once


async def test_a_job_that_waited_too_long_runs_at_the_endpoint(
    bench: Bench, made: dict[str, bytes]
) -> None:
    view = await bench.engine()
    assert (view["state"], view["gpu"]) == ("ready", None)
    assert "2 waiting" in view["detail"]
    asked = {"max_run_seconds": 100, "max_queue_seconds": 1000}
    job_id = (await bench.world.job(media=bench.media, **asked))["id"]
    bench.clock.advance(AGE - 1)
    looks = bench.endpoint.looks
    await until(lambda: bench.endpoint.looks > looks + 2)
    assert bench.endpoint.sent == []
    bench.clock.advance(1)
    await bench.reach(job_id, status="running", phase="staged")
    assert (await bench.engine())["running_job"] == job_id
    bench.clock.advance(5)
    told = {"phase": "sampling", "fraction": 0.25, "step": 1, "steps": 4, "node": "Sampler"}
    bench.endpoint.say(status="IN_PROGRESS", output=told)
    seen = await bench.reach(job_id, phase="sampling")
    assert (seen["progress"]["fraction"], seen["progress"]["step"]) == (0.25, 1)
    bench.endpoint.say(**completed(bench.video))
    ended = await bench.reach(job_id, status="succeeded")
    assert {one["name"] for one in ended["artifacts"]} == {"video", "poster"}
    assert ended["usage"] == {"queue_seconds": 65.0, "gpu_seconds": 12.5, "peak_vram_mib": 9000}
    assert (await bench.world.http.get(f"/v1/jobs/{job_id}/video")).status_code == 200

    (sent,) = bench.endpoint.sent
    assert sent["input"]["max_run_seconds"] == 100
    assert sent["policy"] == {"executionTimeout": 1_000_000, "ttl": 1_940_000}
    given = sent["input"]["request"]
    assert base64.b64decode(given["reference_image"]["base64"]) == made["photo"]
    assert given["width"] == 64


async def test_a_cancel_reaches_the_endpoint(bench: Bench) -> None:
    job_id = await bench.old_job()
    await bench.reach(job_id, status="running", phase="staged")
    assert (await bench.cancel(job_id))["status"] == "canceled"
    assert bench.endpoint.canceled == list(bench.endpoint.said)[-1:]


PROBLEM = {"type": "/problems/out-of-memory", "code": "out-of-memory", "detail": "Too large."}


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"status": "FAILED", "error": json.dumps(PROBLEM)}, "out-of-memory"),
        ({"status": "CANCELLED"}, "interrupted"),
    ],
)
async def test_what_failed_there_failed_here_in_the_same_way(
    bench: Bench, said: dict[str, Any], error: str
) -> None:
    bench.endpoint.next = said
    ended = await bench.reach(await bench.old_job(), status="failed")
    assert (ended["error"]["type"], ended["attempt"]) == (error, 1)


ODD = {"video": {"sha256": "x", "base64": "AAAA"}}


@pytest.mark.parametrize(
    ("said", "loss"),
    [
        ({"status": "FAILED", "error": '{"error_type": "MemoryError"}'}, ("engine-forgot", True)),
        ({"status": "TIMED_OUT"}, ("not-started", False)),
        ({"status": "COMPLETED"}, ("output-missing", True)),
        ({"status": "COMPLETED", "output": ODD}, ("output-missing", True)),
        # The answer to /run is lost: it may run there, nobody can ask, and it counts.
        ({}, ("engine-forgot", True)),
    ],
)
async def test_what_was_lost_there_is_run_again(
    bench: Bench, said: dict[str, Any], loss: tuple[str, bool]
) -> None:
    bench.endpoint.next, bench.endpoint.run_status = said, 200 if said else 0
    job_id = await bench.old_job()
    await until(lambda: bool(bench.endpoint.sent))
    bench.endpoint.next, bench.endpoint.run_status = {"status": "IN_QUEUE"}, 200
    await bench.reach(job_id, attempt=2, phase="staged")
    await bench.cancel(job_id)
    events = (await bench.world.http.get(f"/v1/jobs/{job_id}/events?follow=false")).text
    lost = [json.loads(line[5:]) for line in events.splitlines() if line.startswith("data:")]
    found = [one["data"] for one in lost if "loss" in one.get("data", {})]
    assert [(one["loss"], one["counted"]) for one in found] == [loss]


async def test_a_job_that_the_endpoint_refuses_is_left_to_the_local_engines(bench: Bench) -> None:
    refusal = {"code": "never-fits", "status": 422, "detail": "The card is too small."}
    bench.endpoint.next = {"status": "FAILED", "error": json.dumps(refusal)}
    first = await bench.old_job()
    await until(lambda: bool(bench.endpoint.sent))
    bench.endpoint.next = {"status": "IN_QUEUE"}
    await bench.reach(first, status="queued")
    second = await bench.old_job()
    await bench.reach(second, phase="staged")
    assert (await bench.job(first))["status"] == "queued"
    assert len(bench.endpoint.sent) == 2
    await bench.cancel(first)
    await bench.cancel(second)


async def test_media_too_large_for_a_request_stay_and_it_is_said(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overflow, "MEDIA_BYTES", 10)
    job_id = await bench.old_job()
    await bench.says("1 waiting jobs have media of more than 10 bytes")
    assert (await bench.job(job_id))["status"] == "queued"
    assert bench.endpoint.sent == []
    await bench.cancel(job_id)


async def test_a_drain_sends_nothing(bench: Bench) -> None:
    await bench.world.http.post("/v1/system/drain")
    job_id = await bench.old_job()
    await bench.says("Draining: no new jobs are sent.")
    assert bench.endpoint.sent == []
    await bench.world.http.post("/v1/system/resume")
    await bench.reach(job_id, phase="staged")
    await bench.cancel(job_id)


async def test_after_a_restart_the_run_is_followed_and_not_sent_again(
    endpoint: FakeEndpoint, made: dict[str, bytes], tmp_path: Path, migrated: Path
) -> None:
    clock = Clock()
    shutil.copy(migrated, tmp_path / "gateway.db")
    endpoint.sent.clear()
    async with bench_on(tmp_path, endpoint, made, clock) as bench:
        job_id = await bench.old_job()
        await bench.reach(job_id, phase="staged")
        endpoint.say(status="IN_PROGRESS")
        await bench.reach(job_id, phase="starting")
    endpoint.say(**completed(made["video"]))
    async with bench_on(tmp_path, endpoint, made, clock) as bench:
        assert (await bench.reach(job_id, status="succeeded"))["attempt"] == 1
    assert len(endpoint.sent) == 1


async def test_nothing_of_it_is_there_unless_asked_for(tmp_path: Path) -> None:
    plain = Settings(data_dir=tmp_path, admission="off")
    assert Gateway(plain).overflow is None
    imported = "import sys, app.main; print({'app.jobs.overflow', 'runpod'} & {*sys.modules})"
    command = [sys.executable, "-c", imported]
    ran = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True)
    assert ran.stdout.strip() == b"set()"
    for changed, words in (
        ({"serverless_url": "https://api.runpod.ai/v2/x"}, "GATEWAY_SERVERLESS_KEY"),
        ({"serverless_url": "http://example.com/v2/x", "serverless_key": "k"}, "https"),
    ):
        with pytest.raises(Misconfigured, match=words):
            Gateway(Settings(data_dir=tmp_path, admission="off", **changed))  # type: ignore[arg-type]
