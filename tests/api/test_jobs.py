"""Submitting, looking, listing, canceling, rerunning, deleting."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import datetime
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy as sa
from sqlmodel import Session

from app.jobs import queue
from app.jobs.queue import Report
from tests.apikit import World, until
from tests.mediakit import image_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def world(shared: World) -> World:
    """One gateway for the module: its tests look only at jobs of their own."""
    return shared


async def test_a_job_is_stored_before_its_answer_and_resolved_in_it(world: World) -> None:
    media = await world.media()
    answer = await world.http.post(
        "/v1/jobs",
        json={
            "workflow": "steadydancer",
            "request": {**media, "prompt": "a dancer"},
            "metadata": {"name": "first"},
            "priority": 3,
        },
    )
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}" == job["links"]["self"]
    assert (job["status"], job["phase"], job["attempt"]) == ("queued", "waiting_for_turn", 0)
    assert job["metadata"] == {"name": "first"}
    assert job["priority"] == 3
    assert job["queue_position"] >= 0
    assert job["request"]["mode"] == "fast"
    assert 0 <= job["request"]["seed"] < 2**53
    assert job["request"]["driving_video"] == media["driving_video"]
    assert (await world.http.get(answer.headers["location"])).json()["id"] == job["id"]


async def test_one_form_with_the_files_does_everything(world: World) -> None:
    answer = await world.http.post(
        "/v1/jobs",
        data={"job": json.dumps({"workflow": "smoke", "request": {"frames": 9}})},
        files={
            "reference_image": ("me.png", world.photo, "image/png"),
            "driving_video": ("dance.mp4", world.dance, "video/mp4"),
        },
    )
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert job["request"]["frames"] == 9
    upload = job["request"]["driving_video"]["upload_id"]
    found = (await world.http.get(f"/v1/uploads/{upload}")).json()
    assert (found["kind"], found["bytes"]) == ("video", len(world.dance))


async def test_seeds_give_one_job_each_under_one_batch_id(world: World) -> None:
    request = {**await world.media(), "prompt": "a dancer"}
    body = {"request": request, "seeds": [7, 11, 2**53 - 1]}
    headers = {"Idempotency-Key": "three-seeds"}
    first = (await world.http.post("/v1/jobs", json=body, headers=headers)).json()
    again = await world.http.post("/v1/jobs", json=body, headers=headers)
    assert (again.json()["id"], again.headers["idempotent-replayed"]) == (first["id"], "true")
    assert first["request"]["seed"] == 7
    listed = (await world.http.get("/v1/jobs", params={"batch_id": first["batch_id"]})).json()
    assert [job["request"]["seed"] for job in listed["jobs"]] == [2**53 - 1, 11, 7]
    rerun = (await world.http.post(f"/v1/jobs/{first['id']}/rerun", json={})).json()
    assert (rerun["request"]["seed"], rerun["batch_id"]) == (7, None)


@pytest.mark.parametrize(
    ("workflow", "request_", "seeds"),
    [
        ("steadydancer", {"prompt": "x"}, [1, 1]),
        ("steadydancer", {"prompt": "x", "seed": 3}, [1, 2]),
        ("steadydancer", {"prompt": "x"}, [1]),
        ("steadydancer", {"prompt": "x"}, [1, 2**53]),
        ("smoke", {}, [1, 2]),
    ],
)
async def test_seeds_that_contradict_are_refused(
    world: World, workflow: str, request_: dict[str, Any], seeds: list[int]
) -> None:
    request = {**await world.media(), **request_}
    body = {"workflow": workflow, "request": request, "seeds": seeds}
    answer = await world.http.post("/v1/jobs", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"].startswith("/seeds")


async def test_the_parts_of_a_form_may_come_in_any_order(world: World) -> None:
    answer = await world.http.post(
        "/v1/jobs",
        files=[
            ("driving_video", ("dance.mp4", world.dance)),
            ("job", (None, json.dumps({"workflow": "smoke", "request": {}}))),
            ("reference_image", ("me.png", world.photo)),
        ],
    )
    assert answer.status_code == 202, answer.text


async def test_a_medium_can_lie_in_the_request_as_base64(world: World) -> None:
    media = await world.media()
    media["reference_image"] = {"base64": base64.b64encode(world.photo).decode()}
    job = await world.job(media=media)
    assert job["request"]["reference_image"].keys() == {"upload_id"}


async def test_the_same_key_and_body_give_the_same_job_again(world: World) -> None:
    media = await world.media()
    body = {"workflow": "smoke", "request": {**media, "seed": None}}
    headers = {"Idempotency-Key": "order-1"}
    before = await world.count("job")
    first = await world.http.post("/v1/jobs", json=body, headers=headers)
    again = await world.http.post("/v1/jobs", json=body, headers=headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["id"] == again.json()["id"]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert await world.count("job") == before + 1


async def test_the_same_key_with_another_body_is_refused(world: World) -> None:
    media = await world.media()
    headers = {"Idempotency-Key": "order-2"}
    await world.job(media=media, headers=headers)
    before = await world.count("job")
    answer = await world.http.post(
        "/v1/jobs",
        json={"workflow": "smoke", "request": {**media, "frames": 3}},
        headers=headers,
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency-key-reused")
    assert await world.count("job") == before


async def test_a_form_with_another_file_is_another_body(world: World) -> None:
    def form(photo: bytes) -> dict[str, tuple[str, bytes]]:
        return {"reference_image": ("a", photo), "driving_video": ("b", world.dance)}

    data = {"job": json.dumps({"workflow": "smoke", "request": {}})}
    headers = {"Idempotency-Key": "form"}
    first = await world.http.post("/v1/jobs", data=data, files=form(world.photo), headers=headers)
    same = await world.http.post("/v1/jobs", data=data, files=form(world.photo), headers=headers)
    other = await world.http.post(
        "/v1/jobs", data=data, files=form(image_bytes("PNG", width=80)), headers=headers
    )
    assert first.json()["id"] == same.json()["id"]
    assert other.status_code == 422


async def test_while_the_first_is_in_flight_the_second_is_told_to_come_back(world: World) -> None:
    body = {
        "workflow": "smoke",
        "request": {
            **await world.media(),
            "reference_image": {"base64": base64.b64encode(world.photo + b"").decode()},
        },
    }
    headers = {"Idempotency-Key": "twice"}
    before = await world.count("job")
    answers = await asyncio.gather(
        *(world.http.post("/v1/jobs", json=body, headers=headers) for _ in range(4))
    )
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses[0] == 202
    assert 409 in statuses
    busy = next(answer for answer in answers if answer.status_code == 409)
    assert busy.json()["code"] == "idempotency-in-flight"
    assert busy.headers["retry-after"] == "1"
    assert await world.count("job") == before + 1


async def test_an_upload_that_is_gone_is_noticed_when_the_job_is_stored(world: World) -> None:
    media = await world.media()
    media["reference_image"] = {
        "upload_id": (await world.upload(image_bytes("PNG", width=240)))["id"]
    }
    await world.job(media=media)
    before = await world.count("job")

    def forget(session: Session) -> None:
        for table in ("job_input", "upload"):
            column = "upload_id" if table == "job_input" else "id"
            gone = sa.text(f"DELETE FROM {table} WHERE {column} = :id")  # noqa: S608 - our names
            session.execute(gone, {"id": media["reference_image"]["upload_id"]})

    await world.gateway.db.write(forget)
    answer = await world.http.post("/v1/jobs", json={"workflow": "smoke", "request": media})
    assert answer.status_code == 422
    assert "expired" in answer.json()["detail"]
    pointers = [error["pointer"] for error in answer.json()["errors"]]
    assert pointers == ["/request/reference_image"]
    assert await world.count("job") == before


async def test_polling_with_the_etag_costs_nothing_until_something_changes(world: World) -> None:
    job = await world.job()
    path = f"/v1/jobs/{job['id']}"
    first = await world.http.get(path)
    tag = first.headers["etag"]
    same = await world.http.get(path, headers={"If-None-Match": f'"zzz", {tag}'})
    assert (same.status_code, same.content) == (304, b"")
    assert same.headers["etag"] == tag
    await world.claim(job["id"])
    changed = await world.http.get(path, headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag


async def test_the_etag_covers_the_place_in_the_queue(world: World) -> None:
    media = await world.media()
    first, second = await world.job(media=media), await world.job(media=media)
    path = f"/v1/jobs/{second['id']}"
    shown = await world.http.get(path)
    await world.http.post(f"/v1/jobs/{first['id']}/cancel")
    moved = await world.http.get(path, headers={"If-None-Match": shown.headers["etag"]})
    assert moved.status_code == 200
    assert moved.json()["queue_position"] == shown.json()["queue_position"] - 1


async def test_a_waiting_call_is_answered_when_the_status_changes(world: World) -> None:
    job = await world.job()
    call = asyncio.create_task(world.http.get(f"/v1/jobs/{job['id']}?wait=30"))
    await world.watched()
    assert not call.done()
    await world.claim(job["id"])
    async with asyncio.timeout(25):
        answer = await call
    assert answer.json()["status"] == "running"


async def test_a_waiting_call_sleeps_through_progress(world: World) -> None:
    job = await world.job()
    fence = await world.claim(job["id"])
    call = asyncio.create_task(world.http.get(f"/v1/jobs/{job['id']}?wait=30"))
    await world.watched()
    report = Report(phase="sampling", fraction=0.5, step=2, steps=4)
    await world.gateway.db.write(
        lambda session: queue.heartbeat(session, fence, report, now=world.now())
    )
    world.gateway.feed.publish(job["id"])
    await asyncio.sleep(0.1)
    assert not call.done()
    await world.gateway.db.write(lambda session: queue.stop(session, fence, now=world.now()))
    world.gateway.feed.publish(job["id"])
    async with asyncio.timeout(25):
        assert (await call).json()["status"] == "canceled"


async def test_a_waiting_call_gives_up_in_time_and_never_waits_for_the_finished(
    world: World,
) -> None:
    job = await world.job()
    async with asyncio.timeout(25):
        assert (await world.http.get(f"/v1/jobs/{job['id']}?wait=0.05")).status_code == 200
    await world.http.post(f"/v1/jobs/{job['id']}/cancel")
    async with asyncio.timeout(25):
        done = await world.http.get(f"/v1/jobs/{job['id']}?wait=60")
    assert done.json()["status"] == "canceled"


async def test_waiting_calls_end_when_the_gateway_stops(world: World) -> None:
    job = await world.job()
    call = asyncio.create_task(world.http.get(f"/v1/jobs/{job['id']}?wait=60"))
    await world.watched()
    world.gateway.stopping.set()
    world.gateway.feed.publish_all()
    async with asyncio.timeout(25):
        assert (await call).status_code == 200
    world.gateway.stopping.clear()


async def test_a_list_shows_all_pages_once_newest_first(world: World) -> None:
    media = await world.media()
    label = {"in": "pages"}
    made = [(await world.job(media=media, metadata=label))["id"] for _ in range(5)]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        answer = await world.http.get(
            "/v1/jobs", params={"metadata.in": "pages", "limit": 2, **cursor}
        )
        page = answer.json()
        seen += [job["id"] for job in page["jobs"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == made[::-1]


async def test_the_queue_is_listed_in_the_order_in_which_its_jobs_start(world: World) -> None:
    media = await world.media()
    label = {"in": "order"}
    made = [
        (await world.job(media=media, metadata=label, priority=priority))["id"]
        for priority in (0, 5, 0, -1, 5)
    ]
    await world.http.post(f"/v1/jobs/{made[0]}/cancel")
    asked = {"metadata.in": "order", "order": "queue", "limit": "3"}
    first = (await world.http.get("/v1/jobs", params=asked)).json()
    rest = (
        await world.http.get("/v1/jobs", params=asked | {"cursor": first["next_cursor"]})
    ).json()
    seen = [job["id"] for job in (*first["jobs"], *rest["jobs"])]
    assert seen == [made[1], made[4], made[2], made[3]]
    assert rest["next_cursor"] is None
    for refused in ({"status": "failed"}, {"order": "oldest"}):
        answer = await world.http.get("/v1/jobs", params=asked | refused)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"].startswith("/order")
    other = {"cursor": first["next_cursor"]}
    assert (await world.http.get("/v1/jobs", params=other)).status_code == 422


async def test_a_list_is_filtered_by_status_workflow_time_and_label(world: World) -> None:
    media = await world.media()
    one = await world.job(media=media, metadata={"in": "filters", "team": "red", "n": "1"})
    two = await world.job(media=media, metadata={"in": "filters", "team": "blue"})
    await world.http.post(f"/v1/jobs/{two['id']}/cancel")

    async def ids(**params: Any) -> list[str]:
        params["metadata.in"] = "filters"
        answer = await world.http.get("/v1/jobs", params=params)
        assert answer.status_code == 200, answer.text
        return [job["id"] for job in answer.json()["jobs"]]

    assert await ids(status="queued") == [one["id"]]
    assert await ids(status=["queued", "canceled"]) == [two["id"], one["id"]]
    assert await ids(workflow="steadydancer") == []
    assert await ids(**{"metadata.team": "red"}) == [one["id"]]
    assert await ids(**{"metadata.team": "red", "metadata.n": "2"}) == []
    assert await ids(created_after=two["created_at"]) == [two["id"]]
    assert await ids(created_before=one["created_at"]) == []


async def test_a_list_refuses_what_it_does_not_know(world: World) -> None:
    for name, value in {
        "stauts": "queued",
        "status": "done",
        "limit": "0",
        "cursor": "bm9uc2Vuc2U",
        "created_after": "yesterday",
        "metadata.": "x",
    }.items():
        answer = await world.http.get("/v1/jobs", params={name: value})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request"), name
        assert answer.json()["errors"][0]["pointer"].startswith(f"/{name}")
        assert not answer.json()["detail"].startswith("0 is"), "that names nothing"


async def test_a_queued_job_is_canceled_at_once_and_again_without_effect(world: World) -> None:
    job = await world.job()
    first = await world.http.post(f"/v1/jobs/{job['id']}/cancel")
    again = await world.http.post(f"/v1/jobs/{job['id']}/cancel")
    assert first.json()["status"] == again.json()["status"] == "canceled"
    kept = datetime.fromisoformat(first.json()["expires_at"]) - datetime.fromisoformat(
        first.json()["finished_at"]
    )
    assert kept.total_seconds() == world.gateway.settings.keep_seconds
    assert first.json()["finished_at"] == again.json()["finished_at"]


async def test_the_answer_of_a_cancel_says_how_a_running_job_ended(world: World) -> None:
    job = await world.job()
    fence = await world.claim(job["id"])
    call = asyncio.create_task(world.http.post(f"/v1/jobs/{job['id']}/cancel"))

    async def asked() -> bool:
        found = await world.http.get(f"/v1/jobs/{job['id']}")
        return bool(found.json()["cancel_requested"])

    await until(asked)
    await world.gateway.db.write(lambda session: queue.stop(session, fence, now=world.now()))
    world.gateway.feed.publish(job["id"])
    assert (await call).json()["status"] == "canceled"


async def test_a_rerun_is_a_new_job_of_the_same_request(world: World) -> None:
    job = await world.job(metadata={"name": "x"}, request={"frames": 9}, priority=2)
    answer = await world.http.post(f"/v1/jobs/{job['id']}/rerun")
    assert answer.status_code == 202, answer.text
    again = answer.json()
    assert again["id"] != job["id"]
    assert again["request"] == job["request"]
    assert (again["metadata"], again["priority"]) == ({"name": "x"}, 2)


async def test_a_rerun_changes_what_it_is_told_to(world: World) -> None:
    media = await world.media()
    request = {**media, "prompt": "a dancer"}
    made = await world.http.post("/v1/jobs", json={"request": request})
    job = made.json()
    answer = await world.http.post(
        f"/v1/jobs/{job['id']}/rerun", json={"overrides": {"seed": None, "prompt": "two dancers"}}
    )
    again = answer.json()["request"]
    assert again["prompt"] == "two dancers"
    assert again["seed"] != job["request"]["seed"]
    same = {name: value for name, value in again.items() if name not in {"seed", "prompt"}}
    assert same.items() <= job["request"].items()


async def test_a_bad_override_is_pointed_at_where_it_stands(world: World) -> None:
    job = await world.job()
    before = await world.count("job")
    answer = await world.http.post(
        f"/v1/jobs/{job['id']}/rerun", json={"overrides": {"width": 33, "colour": 1}}
    )
    assert answer.status_code == 422
    pointers = {error["pointer"] for error in answer.json()["errors"]}
    assert pointers == {"/overrides/width", "/overrides/colour"}
    assert await world.count("job") == before


async def test_only_a_finished_job_can_be_deleted(world: World) -> None:
    job = await world.job()
    early = await world.http.delete(f"/v1/jobs/{job['id']}")
    assert (early.status_code, early.json()["code"]) == (409, "conflict")
    before = await world.count("artifact")
    await world.succeed(job["id"])
    assert (await world.http.delete(f"/v1/jobs/{job['id']}")).status_code == 204
    assert (await world.http.get(f"/v1/jobs/{job['id']}")).status_code == 404
    assert (await world.http.get(f"/v1/jobs/{job['id']}/video")).status_code == 404
    assert await world.count("artifact") == before


async def test_an_unknown_job_is_not_found_wherever_it_is_asked_for(world: World) -> None:
    for bad in ("019ab0c2-7d4e-7c11-9f3a-2b6d5e8f1a40", "nonsense", "..%2f..%2fetc", "%00"):
        for method, path in (
            ("GET", ""),
            ("GET", "/video"),
            ("GET", "/events"),
            ("GET", "/artifacts/poster"),
            ("POST", "/cancel"),
            ("POST", "/rerun"),
            ("DELETE", ""),
        ):
            answer = await world.http.request(method, f"/v1/jobs/{bad}{path}")
            assert answer.status_code == 404, (method, path, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
