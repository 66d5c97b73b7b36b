"""The state of the whole, readiness, metrics, drain; and what happens when something breaks."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.api.health import readiness
from app.gateway import Gateway
from app.gpu.simulated import SimulatedCard
from app.jobs.stations import LocalStations
from app.settings import Settings
from tests.apikit import World, opened


async def test_the_system_shows_queue_engine_store_and_retention(world: World) -> None:
    await world.job()
    found = (await world.http.get("/v1/system")).json()
    assert found["queue"]["queued"] == 1
    assert found["queue"]["oldest_queued_seconds"] >= 0
    assert found["admission"] == "off"
    assert found["engines"][0]["name"] == "engine-0"
    assert found["engines"][0]["state"] in {"starting", "unreachable"}
    assert found["store"]["media_bytes"] == len(world.photo) + len(world.dance)
    assert found["store"]["database_bytes"] > 0
    assert found["store"]["free_disk_bytes"] > 0
    assert found["retention"]["keep_seconds"] == world.gateway.settings.keep_seconds
    assert found["retention"]["keep_failed_seconds"] == world.gateway.settings.keep_seconds
    assert found["draining"] is False
    assert found["version"]


async def test_the_card_is_shown_as_it_was_read(
    settings: Settings, photo: bytes, dance: bytes
) -> None:
    nvml = settings.model_copy(update={"admission": "nvml"})
    card = SimulatedCard(total_mib=24_000)
    card.hold(77, 4_000)
    gateway = Gateway(nvml, cards=[card])
    async with opened(nvml, photo, dance, gateway=gateway) as world:
        await gateway.stations[0].gate.monitor.read()
        gpu = (await world.http.get("/v1/system")).json()["engines"][0]["gpu"]
        assert (gpu["total_mib"], gpu["free_mib"]) == (24_000, 20_000)


async def test_a_drain_holds_new_jobs_back_and_says_so(world: World) -> None:
    assert (await world.http.post("/v1/system/drain")).json()["draining"] is True
    job = await world.job()
    assert job["status"] == "queued", "what is durable can be taken all the same"
    ready = await world.http.get("/readyz")
    assert ready.status_code == 503
    assert {"name": "draining", "ok": False, "detail": "draining"} in ready.json()["checks"]
    assert (await world.http.post("/v1/system/resume")).json()["draining"] is False


async def test_the_process_is_alive_and_each_part_is_ready_by_name(world: World) -> None:
    assert (await world.http.get("/healthz")).json() == {"status": "ok"}
    ready = await world.http.get("/readyz")
    assert ready.status_code == 503
    checks = {check["name"]: check["ok"] for check in ready.json()["checks"]}
    assert checks == {
        "store": True,
        "engine": False,
        "workflows": False,
        "gpu": True,
        "draining": True,
    }


async def test_a_balancer_may_ask_with_head(world: World) -> None:
    for path in ("/healthz", "/readyz"):
        get, head = await world.http.get(path), await world.http.head(path)
        assert (head.status_code, head.content) == (get.status_code, b"")


async def test_metrics_count_requests_by_route_and_jobs_by_status(world: World) -> None:
    job = await world.job()
    for _ in range(3):
        await world.http.get(f"/v1/jobs/{job['id']}")
    await world.http.get("/nothing/at/all")
    text = (await world.http.get("/metrics")).text
    wanted = (
        'steadydancer_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="200"} 3.0'
    )
    assert wanted in text
    assert 'route="unmatched",status="404"} 1.0' in text
    assert 'steadydancer_jobs{status="queued"} 1.0' in text
    assert 'steadydancer_jobs_submitted_total{workflow="smoke"} 1.0' in text
    assert 'steadydancer_engine_up{engine="engine-0"} 0.0' in text
    assert job["id"] not in text


async def test_a_request_keeps_its_id_and_a_nonsense_id_is_replaced(world: World) -> None:
    kept = await world.http.get("/healthz", headers={"X-Request-Id": "trace-7"})
    assert kept.headers["x-request-id"] == "trace-7"
    replaced = await world.http.get("/healthz", headers={"X-Request-Id": "a b{}"})
    assert replaced.headers["x-request-id"] != "a b{}"


async def test_what_nobody_foresaw_is_a_bare_500_with_the_request_id(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("secret detail at /srv/data")

    monkeypatch.setattr("app.jobs.pages.page", broken)
    with capture_logs() as lines:
        answer = await world.http.get("/v1/jobs")
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["request failed"]
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "internal-error"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert "secret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
    text = (await world.http.get("/metrics")).text
    assert 'route="/v1/jobs",status="500"} 1.0' in text


async def test_a_locked_store_is_503_and_not_ready(
    settings: Settings, photo: bytes, dance: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.database._BUSY_TIMEOUT_MS", 50)
    async with opened(settings, photo, dance) as world:
        media = await world.media()
        other = sqlite3.connect(Path(str(world.gateway.db.path)), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            answer = await world.http.post("/v1/jobs", json={"workflow": "smoke", "request": media})
            assert (answer.status_code, answer.json()["code"]) == (503, "store-unavailable")
            assert int(answer.headers["retry-after"]) > 0
            ready = await world.http.get("/readyz")
            checks = {check["name"]: check["ok"] for check in ready.json()["checks"]}
            assert checks["store"] is False
        finally:
            other.execute("ROLLBACK")
            other.close()
        assert (await world.job(media=media))["status"] == "queued"


async def test_workflows_say_what_they_take_and_whether_they_run(world: World) -> None:
    found = (await world.http.get("/v1/workflows")).json()["workflows"]
    by_name = {one["name"]: one for one in found}
    assert set(by_name) >= {"smoke", "steadydancer"}
    dancer = by_name["steadydancer"]
    assert dancer["media"] == {"reference_image": "image", "driving_video": "video"}
    assert "prompt" in dancer["request_schema"]["required"]
    assert dancer["defaults"]["mode"] == "fast"
    assert dancer["available"] is False, "no engine was seen yet"
    one = (await world.http.get("/v1/workflows/steadydancer")).json()
    assert one == dancer
    missing = await world.http.get("/v1/workflows/tango")
    assert (missing.status_code, missing.json()["code"]) == (404, "not-found")


async def test_an_estimate_prices_a_request_and_stores_nothing(world: World) -> None:
    media = await world.media()
    answer = await world.http.post(
        "/v1/workflows/steadydancer/estimate",
        json={"request": {"prompt": "a dancer", "preset": "480p", **media}},
    )
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["need_mib"] > 5_000
    assert found["learned"] is False
    assert found["fits"] is None
    assert found["queue_position"] == 0
    assert found["request"]["frames"] == 29, "what the two seconds of the video give"
    bare = await world.http.post(
        "/v1/workflows/steadydancer/estimate", json={"request": {"prompt": "a dancer"}}
    )
    assert bare.json()["request"]["frames"] == 81
    assert await world.count("job") == 0
    bad = await world.http.post(
        "/v1/workflows/steadydancer/estimate", json={"request": {"prompt": "x", "width": 33}}
    )
    assert bad.json()["errors"][0]["pointer"] == "/request/width"


async def test_an_estimate_learns_how_long_such_jobs_take(world: World) -> None:
    job = await world.job(request={"frames": 9})
    await world.succeed(job["id"])

    async def seconds(frames: int) -> float:
        answer = await world.http.post(
            "/v1/workflows/smoke/estimate", json={"request": {"frames": frames}}
        )
        return float(answer.json()["expected_seconds"])

    assert await seconds(9) == 1.5, "as that job took"
    assert await seconds(18) == pytest.approx(3.0), "twice the work"
    answer = await world.http.post(
        "/v1/workflows/steadydancer/estimate", json={"request": {"prompt": "x"}}
    )
    assert answer.json()["expected_seconds"] is None, "another workflow has another pace"


async def test_the_same_shape_with_twice_the_steps_takes_twice_as_long(world: World) -> None:
    asked = {"prompt": "x", "frames": 29, "preset": "480p"}
    job = await world.job(workflow="steadydancer", request=asked)
    await world.succeed(job["id"])
    for steps, expected in ((4, 1.5), (8, 3.0)):
        answer = await world.http.post(
            "/v1/workflows/steadydancer/estimate", json={"request": {**asked, "steps": steps}}
        )
        assert answer.json()["expected_seconds"] == expected


async def test_a_fleet_without_workers_says_so(world: World) -> None:
    alone = replace(world.gateway.services(), stations=LocalStations([]))
    told = {check.name: check for check in await readiness(alone)}
    for name in ("engine", "gpu"):
        assert (told[name].ok, told[name].detail) == (False, "no worker has reported")
