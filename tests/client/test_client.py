"""Both clients against the real gateway."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from app import wire
from app.client import (
    DownloadFailed,
    GatewayProblem,
    GatewayUnreachable,
    JobRequest,
    Preview,
    Retry,
    WaitTimedOut,
)
from tests.client.conftest import Driver
from tests.livekit import FILES, PHOTO, Cutter, Live


def smoke(**more: Any) -> JobRequest:
    return JobRequest(workflow="smoke", request={"frames": 5}, **more)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def size_of(path: Path) -> int:
    return path.stat().st_size


async def done(call: Driver, **more: Any) -> Any:
    job = await call("submit", smoke(**more), files=FILES)
    return await call("wait", job.id, seconds=120)


async def test_a_job_goes_from_two_files_to_a_checked_mp4(call: Driver, tmp_path: Path) -> None:
    sent: list[tuple[int, int]] = []
    job = await call(
        "submit", smoke(), files=FILES, on_bytes=lambda done, total: sent.append((done, total))
    )
    assert job.status in {"queued", "running"}
    assert job.request["frames"] == 5
    total = sum(path.stat().st_size for path in FILES.values())
    assert [done for done, _ in sent] == sorted(done for done, _ in sent)
    assert sent[-1] == (total, total)

    job = await call("wait", job.id, seconds=120)
    assert job.status == "succeeded"

    received: list[int] = []
    video = await call(
        "download", job.id, tmp_path / "out.mp4", on_bytes=lambda done, _: received.append(done)
    )
    data = (tmp_path / "out.mp4").read_bytes()
    assert hashlib.sha256(data).hexdigest() == video.sha256
    assert received[-1] == len(data) == video.bytes
    assert (video.width, video.height, video.frames) == (64, 112, 6)
    assert names(tmp_path) == ["out.mp4"]


async def test_an_upload_can_be_named_instead_of_sent_again(call: Driver) -> None:
    photo = await call("upload", PHOTO)
    again = await call("upload", PHOTO)
    assert again.id == photo.id
    assert (photo.kind, photo.bytes) == ("image", PHOTO.stat().st_size)
    asked = JobRequest(
        workflow="smoke", request={"frames": 5, "reference_image": {"upload_id": photo.id}}
    )
    job = await call("submit", asked, files={"driving_video": FILES["driving_video"]})
    job = await call("wait", job.id, seconds=120)
    assert job.request["reference_image"] == {"upload_id": photo.id}


async def test_a_refusal_names_the_fields(call: Driver) -> None:
    asked = JobRequest(workflow="smoke", request={"width": 65, "nonsense": 1})
    with pytest.raises(GatewayProblem) as caught:
        await call("submit", asked, files=FILES)
    problem = caught.value
    assert (problem.status, problem.code) == (422, "invalid-request")
    assert {fault.pointer for fault in problem.errors} == {"/request/width", "/request/nonsense"}


async def test_an_unknown_job_is_a_problem_not_a_retry(shaky: Driver, cutter: Cutter) -> None:
    with pytest.raises(GatewayProblem, match="no job"):
        await shaky("get", str(uuid4()))
    assert len(cutter.requests) == 1


@pytest.mark.parametrize("name", ["../keys", "a/b", "", "a?b", "ä"])
async def test_an_id_never_becomes_another_path(call: Driver, name: str) -> None:
    with pytest.raises(ValueError, match="is no id"):
        await call("get", name)


async def test_a_submission_whose_answer_is_lost_makes_one_job(
    shaky: Driver, call: Driver, cutter: Cutter
) -> None:
    label = str(uuid4())
    cutter.cut(0)
    job = await shaky("submit", smoke(metadata={"run": label}), files=FILES)
    assert len(cutter.requests) == 2
    listed = await call("list", metadata={"run": label})
    assert [one.id for one in listed] == [job.id]


async def test_the_same_key_gives_the_same_job_to_another_program(call: Driver) -> None:
    key = str(uuid4())
    first = await call("submit", smoke(), files=FILES, idempotency_key=key)
    second = await call("submit", smoke(), files=FILES, idempotency_key=key)
    assert second.id == first.id
    with pytest.raises(GatewayProblem) as caught:
        await call("submit", smoke(priority=5), files=FILES, idempotency_key=key)
    assert caught.value.code == "idempotency-key-reused"


async def test_a_gateway_that_comes_back_is_waited_for(shaky: Driver, cutter: Cutter) -> None:
    cutter.cut(0, 0, 0)
    assert (await shaky("system")).version
    assert len(cutter.requests) == 4


async def test_nobody_there_is_said_when_patience_ends(kind: str) -> None:
    driver = Driver(kind, "http://127.0.0.1:9", Retry(seconds=0))
    with pytest.raises(GatewayUnreachable, match="nothing answers there"):
        await driver("system")
    await driver.close()


async def test_waiting_ends_in_time_and_the_job_goes_on(call: Driver) -> None:
    await call("drain")
    try:
        job = await call("submit", smoke(), files=FILES)
        with pytest.raises(WaitTimedOut):
            await call("wait", job.id, seconds=0.2)
        assert (await call("get", job.id)).status == "queued"
        canceled = await call("cancel", job.id)
        assert canceled.status == "canceled"
        assert (await call("cancel", job.id)).status == "canceled"
        assert (await call("wait", job.id, seconds=120)).status == "canceled"
    finally:
        await call("resume")


async def test_every_event_comes_once_whatever_breaks(
    shaky: Driver, call: Driver, cutter: Cutter, finished: wire.Job
) -> None:
    whole = [event for event in await call("events", finished.id) if not isinstance(event, Preview)]
    assert whole[0].type == "job.queued"
    assert whole[-1].type == "job.succeeded"
    cutter.cut(600, 0, 700, 900)
    pieces = [
        event for event in await shaky("events", finished.id) if not isinstance(event, Preview)
    ]
    assert pieces == whole
    assert len(cutter.requests) == 5
    assert "last-event-id" in cutter.requests[-1].lower()


async def test_events_go_on_after_the_last_one_seen(call: Driver, finished: wire.Job) -> None:
    whole = await call("events", finished.id)
    rest = await call("events", finished.id, last_event_id=whole[2].id)
    assert rest == whole[3:]
    assert await call("events", finished.id, last_event_id=whole[-1].id) == []


async def test_a_download_goes_on_where_the_connection_broke(
    shaky: Driver, cutter: Cutter, tmp_path: Path, finished: wire.Job
) -> None:
    cutter.cut(6000)  # the answer about the job, and half of the file
    video = await shaky("download", finished.id, tmp_path / "out.mp4")
    assert hashlib.sha256((tmp_path / "out.mp4").read_bytes()).hexdigest() == video.sha256
    ranges = [head for head in cutter.requests if "range: bytes=" in head.lower()]
    assert ranges
    assert f'if-range: "{video.sha256}"' in ranges[0].lower()


async def test_what_is_left_of_a_download_is_taken_up_by_the_next_program(
    kind: str, cutter: Cutter, tmp_path: Path, finished: wire.Job
) -> None:
    impatient = Driver(kind, cutter.url, Retry(seconds=0))
    cutter.cut(6000)
    with pytest.raises(GatewayUnreachable):
        await impatient("download", finished.id, tmp_path / "out.mp4")
    await impatient.close()
    left = names(tmp_path)
    assert len(left) == 1
    assert left[0].endswith(".partial")
    kept = size_of(tmp_path / left[0])
    assert 0 < kept < finished.artifacts[0].bytes
    again = Driver(kind, cutter.url, Retry(seconds=0))
    cutter.requests.clear()
    await again("download", finished.id, tmp_path / "out.mp4")
    await again.close()
    assert names(tmp_path) == ["out.mp4"]
    assert f"range: bytes={kept}-" in cutter.requests[-1].lower()


async def test_a_damaged_part_is_noticed_and_fetched_again(
    call: Driver, tmp_path: Path, finished: wire.Job
) -> None:
    video = finished.artifacts[0]
    partial = tmp_path / f".out.mp4.{video.sha256[:16]}.partial"
    partial.write_bytes(b"x" * 1000)
    await call("download", finished.id, tmp_path / "out.mp4")
    data = (tmp_path / "out.mp4").read_bytes()
    assert hashlib.sha256(data).hexdigest() == video.sha256
    assert not partial.exists()


async def test_a_file_that_is_there_is_not_loaded_again(
    shaky: Driver, call: Driver, cutter: Cutter, tmp_path: Path, finished: wire.Job
) -> None:
    await call("download", finished.id, tmp_path / "out.mp4")
    await shaky("download", finished.id, tmp_path / "out.mp4")
    assert len(cutter.requests) == 1  # the job itself


async def test_an_artifact_that_was_not_made_is_named(
    call: Driver, tmp_path: Path, finished: wire.Job
) -> None:
    with pytest.raises(DownloadFailed, match="'pose'; there are video, poster"):
        await call("download", finished.id, tmp_path / "pose.mp4", artifact="pose")
    assert names(tmp_path) == []


async def test_a_list_goes_over_all_pages(call: Driver) -> None:
    label = str(uuid4())
    made = [
        (await call("submit", smoke(metadata={"run": label}), files=FILES)).id for _ in range(5)
    ]
    listed = await call("list", metadata={"run": label}, page_size=2)
    assert [job.id for job in listed] == made[::-1]
    assert await call("list", metadata={"run": label}, status=["failed"]) == []


async def test_a_rerun_changes_what_it_is_told_to(call: Driver) -> None:
    job = await done(call)
    again = await call("rerun", job.id, overrides={"frames": 9})
    again = await call("wait", again.id, seconds=120)
    assert (again.status, again.request["frames"]) == ("succeeded", 9)
    assert again.id != job.id


async def test_a_deleted_job_is_gone(call: Driver) -> None:
    job = await done(call)
    await call("delete", job.id)
    with pytest.raises(GatewayProblem, match="no job"):
        await call("get", job.id)


async def test_what_can_be_asked_for_and_what_it_takes(call: Driver, gateway: Live) -> None:
    views = await call("workflows")
    assert [(view.name, view.available) for view in views] == [
        ("smoke", True),
        ("steadydancer", True),
    ]
    assert (await call("workflow", "steadydancer")).media["driving_video"] == "video"
    price = await call("estimate", {"prompt": "a dancer", "preset": "720p"})
    assert price.need_mib > 1000
    assert price.request["width"] == 720
    system = await call("system")
    assert system.admission == "off"
    assert (await call("ready")).ready


async def test_the_graph_that_ran_can_be_read(call: Driver, finished: wire.Job) -> None:
    graph = await call("document", finished.id, "graph")
    assert {node["class_type"] for node in graph.values()} >= {"LoadImage", "SaveVideo"}
    assert (await call("document", finished.id, "request"))["frames"] == 5
