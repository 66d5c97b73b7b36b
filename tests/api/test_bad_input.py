"""Every way to get a submission wrong: status, field, rule, what works, and no trace left."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from app.gateway import Gateway
from app.gpu.simulated import SimulatedCard
from app.settings import Settings
from app.wire import MissingPart
from tests.apikit import World, opened
from tests.mediakit import image_bytes, make_audio, make_video

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNTOUCHED = ("job", "job_event", "job_input", "job_label", "idempotency_key", "webhook_message")


def problem_of(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem document of an answer, of this status and code."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["code"] == code, found
    assert found["type"] == f"/problems/{code}"
    assert found["status"] == status
    assert found["title"]
    assert found["detail"]
    return found


def fault(found: dict[str, Any], pointer: str) -> str:
    """What is said of a field."""
    by_pointer = {error["pointer"]: error["detail"] for error in found["errors"]}
    assert pointer in by_pointer, found
    return str(by_pointer[pointer])


@pytest_asyncio.fixture(loop_scope="module")
async def untouched(shared: World) -> AsyncIterator[World]:
    """A gateway in which nothing may be left of a job when the test is over."""
    yield shared
    for table in UNTOUCHED:
        assert await shared.count(table) == 0, table


@pytest.mark.parametrize(
    ("request_", "pointer", "words"),
    [
        ({"width": "480"}, "/request/width", ['"480"', "without quotes"]),
        ({"width": 481, "height": 832}, "/request/width", ["481", "multiple of 16", "480 and 496"]),
        ({"frames": 80}, "/request/frames", ["80", "77 and 81"]),
        ({"frames": 10_001}, "/request/frames", ["10001", "241"]),
        ({"prompt": None}, "/request/prompt", ["prompt is missing"]),
        ({"prompt": 7}, "/request/prompt", ["7", "a text"]),
        ({"prompt": "x" * 2_001}, "/request/prompt", ["2,001", "2,000"]),
        ({"colour": "red"}, "/request/colour", ["colour", "no field"]),
        ({"widht": 480}, "/request/widht", ['did you mean "width"']),
        ({"mode": "fastest"}, "/request/mode", ['"fastest"', '"fast"', '"quality"']),
        ({"cfg": 4.5}, "/request/cfg", ["4.5", "must be 1"]),
        ({"seed": -1}, "/request/seed", ["-1", "0"]),
        ({"seed": 2**53}, "/request/seed", [str(2**53)]),
        ({"keep_audio": "yes"}, "/request/keep_audio", ["true or false"]),
        ({"start_seconds": 500.0}, "/request/start_seconds", ["500", "2.00"]),
        ({"reference_image": None}, "/request/reference_image", ["missing", "upload_id"]),
        ({"reference_image": "me.png"}, "/request/reference_image", ["me.png", "exactly one of"]),
        (
            {"reference_image": {"upload_id": "a", "url": "https://example.com"}},
            "/request/reference_image",
            ["exactly one of"],
        ),
        (
            {"reference_image": {"upload_id": "019ab0c1-0a52-7f0e-8d11-6a1f0c3b9e77"}},
            "/request/reference_image/upload_id",
            ["no upload"],
        ),
        (
            {"driving_video": {"base64": "not base64!"}},
            "/request/driving_video/base64",
            ["base64"],
        ),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
async def test_a_field_that_breaks_a_rule_is_named_with_what_would_work(
    untouched: World, request_: dict[str, Any], pointer: str, words: list[str]
) -> None:
    request = {"prompt": "a dancer", **await untouched.media(), **request_}
    answer = await untouched.http.post("/v1/jobs", json={"request": request})
    said = fault(problem_of(answer, 422, "invalid-request"), pointer)
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("body", "pointer", "words"),
    [
        ({"workflow": "smoke"}, "/request", ["request is missing"]),
        ({"workflow": "smoke", "request": []}, "/request", ["request is []"]),
        ({"workflow": 7, "request": {}}, "/workflow", ["workflow is 7", "string"]),
        ({"request": {}, "priority": "5"}, "/priority", ['"5"', "integer"]),
        ({"request": {}, "priority": True}, "/priority", ["true", "integer"]),
        ({"request": {}, "priority": 101}, "/priority", ["101", "100"]),
        ({"request": {}, "priorty": 1}, "/priorty", ['did you mean "priority"']),
        ({"request": {}, "metadata": {"a": 1}}, "/metadata/a", ["1", "string"]),
        ({"request": {}, "metadata": {"a b": "1"}}, "/metadata/a b", ["pattern"]),
        ({"request": {}, "metadata": {"a": "\x00"}}, "/metadata/a", ["NUL"]),
        (
            {"request": {}, "webhook": {"url": "https://e.org", "events": ["job.done"]}},
            "/webhook/events/0",
            ['"job.done"', "job.succeeded"],
        ),
        ({"request": {}, "max_queue_seconds": 0}, "/max_queue_seconds", ["0", "greater than 0"]),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
async def test_the_envelope_is_held_to_its_rules(
    untouched: World, body: dict[str, Any], pointer: str, words: list[str]
) -> None:
    answer = await untouched.http.post("/v1/jobs", json=body)
    said = fault(problem_of(answer, 422, "invalid-request"), pointer)
    for word in words:
        assert word in said


async def test_all_faults_are_told_at_once(untouched: World) -> None:
    body = {
        "workflow": "smoke",
        "request": {"width": 33, "frames": 0},
        "max_run_seconds": 80_000,
    }
    found = problem_of(await untouched.http.post("/v1/jobs", json=body), 422, "invalid-request")
    assert {error["pointer"] for error in found["errors"]} == {
        "/request/width",
        "/request/frames",
        "/request/reference_image",
        "/request/driving_video",
        "/max_run_seconds",
    }


async def test_an_unknown_workflow_is_refused_with_those_there_are(untouched: World) -> None:
    answer = await untouched.http.post("/v1/jobs", json={"workflow": "tango", "request": {}})
    said = fault(problem_of(answer, 422, "unknown-workflow"), "/workflow")
    assert "tango" in said
    assert "smoke, steadydancer" in said


async def test_a_workflow_that_lacks_something_on_every_engine_is_refused_with_its_name(
    untouched: World,
) -> None:
    part = MissingPart(kind="model", name="wan.gguf", detail="model wan.gguf is missing")
    engine = untouched.gateway.stations[0].dispatcher.engine
    engine.missing = {"smoke": (part,)}
    answer = await untouched.http.post("/v1/jobs", json={"workflow": "smoke", "request": {}})
    engine.missing = {}
    found = problem_of(answer, 422, "workflow-unavailable")
    assert "wan.gguf" in fault(found, "/workflow")
    assert found["missing"][0]["name"] == "wan.gguf"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"request": {}} trailing', "not JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b'{"request": {}, "request": {}}', "twice"),
        (b'{"request": {"a": NaN}}', "NaN"),
        (b'{"request": {"a": -Infinity}}', "Infinity"),
        (b'{"request": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
        (b'{"request": {"a": ' + b'{"a":' * 60 + b"1" + b"}" * 60 + b"}}", "nested too deep"),
        (b'{"request": {"seed": ' + b"9" * 5_000 + b"}}", "cannot be taken"),
    ],
)
async def test_a_body_that_is_not_json_is_malformed(
    untouched: World, data: bytes, words: str
) -> None:
    answer = await untouched.http.post(
        "/v1/jobs", content=data, headers={"Content-Type": "application/json"}
    )
    assert words in problem_of(answer, 400, "malformed-body")["detail"]


@pytest.mark.parametrize("data", [b"[]", b'"text"', b"7", b"null"])
async def test_a_body_that_is_no_object_is_refused(untouched: World, data: bytes) -> None:
    answer = await untouched.http.post(
        "/v1/jobs", content=data, headers={"Content-Type": "application/json"}
    )
    assert "JSON object" in problem_of(answer, 422, "invalid-request")["detail"]


async def test_half_a_character_is_refused_where_it_stands(untouched: World) -> None:
    answer = await untouched.http.post(
        "/v1/jobs",
        content=rb'{"request": {}, "metadata": {"a": "\ud800"}}',
        headers={"Content-Type": "application/json"},
    )
    said = fault(problem_of(answer, 422, "invalid-request"), "/metadata/a")
    assert "surrogate" in said


async def test_a_number_beyond_all_numbers_is_refused(untouched: World) -> None:
    answer = await untouched.http.post(
        "/v1/jobs",
        content=b'{"request": {"cfg": 1e999}}',
        headers={"Content-Type": "application/json"},
    )
    assert "too large" in fault(problem_of(answer, 422, "invalid-request"), "/request/cfg")


async def test_other_media_types_are_not_taken(untouched: World) -> None:
    answer = await untouched.http.post(
        "/v1/jobs", content=b"<job/>", headers={"Content-Type": "application/xml"}
    )
    assert "multipart" in problem_of(answer, 415, "unsupported-media-type")["detail"]


async def test_a_body_beyond_the_limit_is_refused_and_says_where_media_belong(
    untouched: World,
) -> None:
    body = {"request": {"reference_image": {"base64": "A" * 1_100_000}}}
    answer = await untouched.http.post("/v1/jobs", json=body)
    assert "uploads" in problem_of(answer, 413, "payload-too-large")["detail"]


# --- files ---------------------------------------------------------------------------------------


def without_frames(path: Path) -> bytes:
    return make_video(path / "none.mp4", frames=0).read_bytes()


def only_sound(path: Path) -> bytes:
    return make_audio(path / "sound.mp4").read_bytes()


def cut_off(path: Path) -> bytes:
    whole = make_video(path / "whole.mp4", frames=48).read_bytes()
    return whole[: len(whole) // 3]


FILES = {
    "empty": lambda _path: b"",
    "text": lambda _path: b"this is no video at all\n" * 50,
    "noise": lambda _path: bytes(range(256)) * 64,
    "without_frames": without_frames,
    "only_sound": only_sound,
    "cut_off": cut_off,
}


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("way", ["form", "base64"])
async def test_a_file_that_is_no_video_is_refused_at_its_field(
    untouched: World, tmp_path: Path, name: str, way: str
) -> None:
    data = FILES[name](tmp_path)
    if way == "form":
        answer = await untouched.http.post(
            "/v1/jobs",
            data={"job": json.dumps({"workflow": "smoke", "request": {}})},
            files={"reference_image": untouched.photo, "driving_video": ("dance.mp4", data)},
        )
    else:
        media = await untouched.media()
        media["driving_video"] = {"base64": base64.b64encode(data).decode()}
        answer = await untouched.http.post("/v1/jobs", json={"workflow": "smoke", "request": media})
    found = problem_of(answer, 422, "unsupported-media")
    assert len(fault(found, "/request/driving_video")) > 20


async def test_a_picture_under_a_video_name_is_told_apart(untouched: World) -> None:
    answer = await untouched.http.post(
        "/v1/jobs",
        data={"job": json.dumps({"workflow": "smoke", "request": {}})},
        files={
            "reference_image": ("me.png", untouched.photo),
            "driving_video": ("dance.mp4", untouched.photo, "video/mp4"),
        },
    )
    said = fault(problem_of(answer, 422, "unsupported-media"), "/request/driving_video")
    assert "image" in said


async def test_an_upload_of_the_wrong_kind_is_refused_at_its_field(untouched: World) -> None:
    media = await untouched.media()
    swapped = {
        "reference_image": media["driving_video"],
        "driving_video": media["reference_image"],
    }
    answer = await untouched.http.post("/v1/jobs", json={"workflow": "smoke", "request": swapped})
    fault(problem_of(answer, 422, "unsupported-media"), "/request/reference_image")


async def test_a_video_too_short_for_the_workflow_is_refused(
    untouched: World, tmp_path: Path
) -> None:
    short = make_video(tmp_path / "short.mp4", frames=4, fps=24).read_bytes()
    media = await untouched.media()
    media["driving_video"] = {"upload_id": (await untouched.upload(short))["id"]}
    answer = await untouched.http.post(
        "/v1/jobs", json={"request": {**media, "prompt": "a dancer", "frames": 81}}
    )
    said = fault(problem_of(answer, 422, "invalid-request"), "/request/driving_video")
    assert "at least 5" in said


async def test_a_job_that_comes_first_is_refused_before_its_files_are_stored(
    untouched: World,
) -> None:
    before = await untouched.count("upload")
    answer = await untouched.http.post(
        "/v1/jobs",
        files=[
            ("job", (None, json.dumps({"workflow": "smoke", "request": {"width": 33}}))),
            ("reference_image", ("me.png", image_bytes("PNG", width=112))),
            ("driving_video", ("dance.mp4", untouched.dance)),
        ],
    )
    fault(problem_of(answer, 422, "invalid-request"), "/request/width")
    assert await untouched.count("upload") == before


@pytest.mark.parametrize(
    ("files", "status", "words"),
    [
        ([("reference_image", ("a", b"x"))], 422, "image"),
        ([("picture", ("a", b"x"))], 422, "picture"),
        ([("job", (None, "{}")), ("job", (None, "{}"))], 422, "request is missing"),
        ([("job", (None, "{"))], 400, "The part 'job' is not JSON"),
    ],
)
async def test_a_wrong_form_names_the_part(
    untouched: World, files: list[Any], status: int, words: str
) -> None:
    answer = await untouched.http.post("/v1/jobs", files=files)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]


async def test_a_form_without_a_job_says_so(untouched: World) -> None:
    answer = await untouched.http.post(
        "/v1/jobs", files={"reference_image": ("a.png", untouched.photo)}
    )
    assert "part 'job' is missing" in problem_of(answer, 422, "invalid-request")["detail"]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/a.mp4",
        "http://127.0.0.1/a.mp4",
        "http://169.254.169.254/latest",
        "http://[::1]/a",
        "file:///etc/passwd",
        "https://user:pass@example.com/a.mp4",
    ],
)
async def test_a_url_that_may_not_be_fetched_is_refused_at_its_field(
    untouched: World, url: str
) -> None:
    media = await untouched.media()
    media["driving_video"] = {"url": url}
    answer = await untouched.http.post("/v1/jobs", json={"workflow": "smoke", "request": media})
    fault(problem_of(answer, 422, "fetch-refused"), "/request/driving_video")
    hook = {"workflow": "smoke", "request": await untouched.media(), "webhook": {"url": url}}
    answer = await untouched.http.post("/v1/jobs", json=hook)
    fault(problem_of(answer, 422, "fetch-refused"), "/webhook/url")


# --- what the card, the queue and the disk refuse ------------------------------------------------


async def test_more_than_the_card_has_is_refused_with_settings_that_fit(
    settings: Settings, photo: bytes, dance: bytes
) -> None:
    card = SimulatedCard(total_mib=11_000)
    nvml = settings.model_copy(update={"admission": "nvml"})
    gateway = Gateway(nvml, cards=[card])
    async with opened(nvml, photo, dance, gateway=gateway) as world:
        await gateway.stations[0].gate.monitor.read()
        request = {"prompt": "a dancer", **await world.media(), "preset": "720p"}
        answer = await world.http.post("/v1/jobs", json={"request": request})
        found = problem_of(answer, 422, "never-fits")
        assert found["need_mib"] > found["card_mib"]
        assert await world.count("job") == 0
        assert found["fits"], found["detail"]
        for fit in found["fits"]:
            assert fit["need_mib"] <= found["card_mib"]
            smaller = {**request, **fit["overrides"]}
            taken = await world.http.post("/v1/jobs", json={"request": smaller})
            assert taken.status_code == 202, taken.text


async def test_a_full_queue_says_when_to_come_back(
    settings: Settings, photo: bytes, dance: bytes
) -> None:
    small = settings.model_copy(update={"max_queued_jobs": 1})
    async with opened(small, photo, dance) as world:
        media = await world.media()
        await world.job(media=media)
        answer = await world.http.post("/v1/jobs", json={"workflow": "smoke", "request": media})
        problem_of(answer, 503, "queue-full")
        assert int(answer.headers["retry-after"]) > 0
        assert await world.count("job") == 1


async def test_a_full_disk_refuses_with_507(settings: Settings, photo: bytes, dance: bytes) -> None:
    full = settings.model_copy(update={"min_free_bytes": 2**62})
    async with opened(full, photo, dance) as world:
        before = await world.count("upload")
        answer = await world.http.post("/v1/uploads", content=photo)
        problem_of(answer, 507, "storage-full")
        gone = {"upload_id": "019ab0c2-7d4e-7c11-9f3a-2b6d5e8f1a40"}
        media = {"reference_image": gone, "driving_video": gone}
        answer = await world.http.post("/v1/jobs", json={"workflow": "smoke", "request": media})
        problem_of(answer, 507, "storage-full")
        assert (await world.count("job"), await world.count("upload")) == (0, before)


async def test_unknown_paths_and_methods_are_problems_too(untouched: World) -> None:
    problem_of(await untouched.http.get("/v1/nothing"), 404, "not-found")
    answer = await untouched.http.put("/v1/jobs")
    problem_of(answer, 405, "method-not-allowed")
    assert set(answer.headers["allow"].split(", ")) >= {"POST"}
    for code in ("never-fits", "out-of-memory", "method-not-allowed"):
        told = (await untouched.http.get(f"/problems/{code}")).json()
        assert told["code"] == code
        assert len(told["description"]) > 10
