"""What a job made, whole and in ranges, as a player and a download manager ask for it."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import anyio
import av
import pytest
import pytest_asyncio

from tests.apikit import World

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def world(shared: World) -> World:
    """One gateway for the module: its tests look only at jobs of their own."""
    return shared


async def finished(world: World, video: bytes | None = None, **more: Any) -> str:
    job_id = str((await world.job(**more))["id"])
    await world.succeed(job_id, video)
    return job_id


async def test_a_finished_job_names_its_files_and_they_are_there(world: World) -> None:
    job_id = await finished(world)
    job = (await world.http.get(f"/v1/jobs/{job_id}")).json()
    assert [one["name"] for one in job["artifacts"]] == ["video", "poster"]
    assert job["links"]["video"] == f"/v1/jobs/{job_id}/video"
    for one in job["artifacts"]:
        answer = await world.http.get(one["url"])
        assert answer.status_code == 200
        assert hashlib.sha256(answer.content).hexdigest() == one["sha256"]
        assert len(answer.content) == one["bytes"] == int(answer.headers["content-length"])
        assert answer.headers["content-type"] == one["media_type"]
        assert answer.headers["etag"] == f'"{one["sha256"]}"'


async def test_a_video_is_served_in_ranges(world: World) -> None:
    job_id = await finished(world)
    path, whole = f"/v1/jobs/{job_id}/video", world.dance
    size = len(whole)
    for header, start, stop in (
        ("bytes=0-99", 0, 100),
        ("bytes=100-", 100, size),
        ("bytes=-7", size - 7, size),
        (f"bytes={size - 1}-{size + 5}", size - 1, size),
    ):
        answer = await world.http.get(path, headers={"Range": header})
        assert answer.status_code == 206
        assert answer.content == whole[start:stop]
        assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
        assert int(answer.headers["content-length"]) == stop - start
    several = await world.http.get(path, headers={"Range": "bytes=0-1,5-6"})
    assert (several.status_code, several.content) == (200, whole)
    outside = await world.http.get(path, headers={"Range": f"bytes={size}-"})
    assert outside.status_code == 416
    assert outside.headers["content-range"] == f"bytes */{size}"
    assert outside.json()["code"] == "range-not-satisfiable"


async def test_ranges_go_across_the_chunks_of_the_store(world: World) -> None:
    video = bytes(range(256)) * 3000
    job_id = await finished(world, video)
    edge = 256 * 1024
    answer = await world.http.get(
        f"/v1/jobs/{job_id}/video", headers={"Range": f"bytes={edge - 3}-{edge * 2 + 3}"}
    )
    assert answer.content == video[edge - 3 : edge * 2 + 4]


async def test_a_resumed_download_never_mixes_two_versions(world: World) -> None:
    job_id = await finished(world)
    path = f"/v1/jobs/{job_id}/video"
    tag = (await world.http.head(path)).headers["etag"]
    same = await world.http.get(path, headers={"Range": "bytes=5-", "If-Range": tag})
    other = await world.http.get(path, headers={"Range": "bytes=5-", "If-Range": '"other"'})
    assert (same.status_code, other.status_code) == (206, 200)
    assert other.content == world.dance
    cached = await world.http.get(path, headers={"If-None-Match": tag})
    assert (cached.status_code, cached.content) == (304, b"")


async def test_head_says_what_get_would(world: World) -> None:
    job_id = await finished(world)
    for path in ("video", "artifacts/poster", "artifacts/request"):
        get = await world.http.get(f"/v1/jobs/{job_id}/{path}")
        head = await world.http.head(f"/v1/jobs/{job_id}/{path}")
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-type", "content-length", "etag", "accept-ranges"):
            assert head.headers.get(name) == get.headers.get(name), name
    partial = await world.http.head(f"/v1/jobs/{job_id}/video", headers={"Range": "bytes=0-9"})
    assert partial.status_code == 200, "a range means something with GET alone"


NAMES = {
    "holiday": 'inline; filename="holiday.mp4"',
    'a"; filename="evil.exe': 'inline; filename="a_ filename=evil.exe.mp4"',
    "../../etc/passwd": 'inline; filename="etcpasswd.mp4"',
    "line\r\nSet-Cookie: a=b": 'inline; filename="lineSet-Cookie: a=b.mp4"',
    "t\u00e4nzer": "inline; filename=\"t_nzer.mp4\"; filename*=UTF-8''t%C3%A4nzer.mp4",
    "...": 'inline; filename="video.mp4"',
}


async def test_a_file_is_called_as_the_job_and_the_name_stays_a_name(world: World) -> None:
    media = await world.media()
    for name, expected in NAMES.items():
        job_id = await finished(world, media=media, metadata={"name": name})
        answer = await world.http.get(f"/v1/jobs/{job_id}/video")
        assert answer.headers["content-disposition"].startswith(expected)
        assert "set-cookie" not in answer.headers
        saved = await world.http.get(f"/v1/jobs/{job_id}/video?download=true")
        assert saved.headers["content-disposition"].startswith("attachment; ")


async def test_the_graph_that_ran_and_the_request_can_be_read(world: World) -> None:
    job_id = await finished(world)
    graph = await world.http.get(f"/v1/jobs/{job_id}/artifacts/graph")
    assert graph.json() == {"1": {"class_type": "X"}}
    tag = graph.headers["etag"]
    piece = {"Range": "bytes=1-3", "If-Range": tag}
    part = await world.http.get(f"/v1/jobs/{job_id}/artifacts/graph", headers=piece)
    assert (part.status_code, part.content) == (206, graph.content[1:4])
    assert part.headers["content-range"] == f"bytes 1-3/{len(graph.content)}"
    same = await world.http.get(
        f"/v1/jobs/{job_id}/artifacts/graph", headers={"If-None-Match": tag}
    )
    assert (same.status_code, same.content) == (304, b"")
    request = (await world.http.get(f"/v1/jobs/{job_id}/artifacts/request")).json()
    assert request == (await world.http.get(f"/v1/jobs/{job_id}")).json()["request"]


async def test_what_is_not_there_yet_is_not_found(world: World) -> None:
    job = await world.job()
    for path in ("video", "artifacts/poster", "artifacts/graph", "artifacts/pose"):
        answer = await world.http.get(f"/v1/jobs/{job['id']}/{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not-found")


async def test_a_player_that_seeks_sees_the_frames(live: World) -> None:
    """PyAV's HTTP reader asks as a player does: the head, the index, then wherever it seeks."""
    job_id = await finished(live)
    url = f"{live.http.base_url}/v1/jobs/{job_id}/video"

    def play() -> int:
        with av.open(url, options={"seekable": "1"}) as video:
            video.seek(1_000_000)
            return sum(1 for _ in video.decode(video=0))

    assert await anyio.to_thread.run_sync(play) > 0


async def test_curl_takes_up_a_broken_download(live: World, tmp_path: Path) -> None:
    job_id = await finished(live)
    target = tmp_path / "video.mp4"
    target.write_bytes(live.dance[:1000])
    url = f"{live.http.base_url}/v1/jobs/{job_id}/video"

    def resume() -> None:
        subprocess.run(["curl", "-sfS", "-C", "-", "-o", str(target), url], check=True, timeout=120)

    await anyio.to_thread.run_sync(resume)
    assert target.read_bytes() == live.dance
