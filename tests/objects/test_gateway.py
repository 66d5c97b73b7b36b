"""A gateway whose media lie in object storage: given through it, by links, moved and backed up."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from app import wire
from app.client import GatewayClient
from app.settings import Settings
from tests.apikit import World, opened
from tests.clikit import invoke
from tests.livekit import FILES, live
from tests.objectkit import Bucket, is_at, nowhere


@pytest.fixture
async def world(
    settings: Settings, bucket: Bucket, photo: bytes, dance: bytes
) -> AsyncIterator[World]:
    async with opened(bucket.applied(settings), photo, dance) as made:
        yield made


async def finished(world: World, video: bytes) -> str:
    job_id = str((await world.job())["id"])
    await world.succeed(job_id, video)
    await world.gateway.store.sweep(grace=timedelta(hours=1))  # the poster, sent a second time
    return job_id


async def test_a_video_is_served_as_from_the_database(world: World, bucket: Bucket) -> None:
    video = bytes(range(256)) * 12_000
    job_id = await finished(world, video)
    path, size = f"/v1/jobs/{job_id}/video", len(video)
    assert len(bucket.keys()) == 1
    whole = await world.http.get(path)
    tag = f'"{hashlib.sha256(video).hexdigest()}"'
    assert (whole.status_code, whole.content, whole.headers["etag"]) == (200, video, tag)
    for header, start, stop in (
        ("bytes=0-99", 0, 100),
        ("bytes=-7", size - 7, size),
        (f"bytes={(2 << 20) - 3}-{(2 << 20) + 3}", (2 << 20) - 3, (2 << 20) + 4),
    ):
        answer = await world.http.get(path, headers={"Range": header, "If-Range": tag})
        assert (answer.status_code, answer.content) == (206, video[start:stop])
        assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
    assert (await world.http.get(path, headers={"Range": f"bytes={size}-"})).status_code == 416
    head = await world.http.head(path)
    assert (head.headers["content-length"], head.headers["etag"]) == (str(size), tag)
    store = (await world.http.get("/v1/system")).json()["store"]
    assert store["object_bytes"] == size
    assert store["media_bytes"] == size + len(world.photo) + len(world.dance)


async def test_a_storage_that_is_away_is_a_problem_with_words(
    settings: Settings, bucket: Bucket, photo: bytes, dance: bytes
) -> None:
    async with opened(bucket.applied(settings), photo, dance) as world:
        job_id = await finished(world, b"video")
        ready = (await world.http.get("/readyz")).json()["checks"]
        assert {"name": "objects", "ok": True, "detail": "reachable"} in ready
    gone = bucket.applied(settings, media_endpoint=nowhere())
    async with opened(gone, photo, dance) as world:
        answer = await world.http.get(f"/v1/jobs/{job_id}/video")
        assert (answer.status_code, answer.json()["code"]) == (503, "store-unavailable")
        assert int(answer.headers["retry-after"]) > 0
        assert "object storage" in answer.json()["detail"]
        checks = (await world.http.get("/readyz")).json()["checks"]
        assert [one["name"] for one in checks if not one["ok"]][0] == "objects"  # noqa: RUF015


async def test_a_redirect_leads_to_the_storage_and_the_rest_is_answered_here(
    settings: Settings, bucket: Bucket, photo: bytes, dance: bytes
) -> None:
    async with opened(bucket.applied(settings, media_delivery="redirect"), photo, dance) as world:
        job_id = await finished(world, dance + b"!")
        path = f"/v1/jobs/{job_id}/video"
        sent_on = await world.http.get(path, headers={"Range": "bytes=5-9"})
        link = sent_on.headers["location"]
        assert sent_on.status_code == 307
        assert is_at(link, bucket)
        async with httpx.AsyncClient(trust_env=False) as outside:
            part = await outside.get(link, headers={"Range": "bytes=5-9"})
            assert (part.status_code, part.content) == (206, dance[5:10])
            assert (await outside.get(link)).content == dance + b"!"
        head = await world.http.head(path)
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(dance) + 1))
        tag = head.headers["etag"]
        for headers, status in (
            ({"Range": "bytes=5-9", "If-Range": tag}, 206),
            ({"Range": "bytes=5-9", "If-Range": '"other"'}, 200),
            ({"If-None-Match": tag}, 304),
            ({"Range": "bytes=99999999-"}, 416),
        ):
            assert (await world.http.get(path, headers=headers)).status_code == status
        saved = await world.http.get(f"{path}?download=true")
        assert saved.headers["content-disposition"].startswith("attachment")
        in_database = await world.http.get(f"/v1/jobs/{job_id}/artifacts/poster")
        assert in_database.status_code == 200  # the template's photo was stored before
        assert bucket.endpoint in (await world.http.get("/")).headers["content-security-policy"]


async def test_the_command_moves_beside_a_running_gateway_and_a_backup_says_what_it_lacks(
    world: World,
    bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    job_id = await finished(world, b"a video")
    data = str(world.gateway.settings.data_dir)
    environment = {f"GATEWAY_{name.upper()}": value for name, value in bucket.settings().items()}

    async def run(*words: str, **more: str) -> Any:
        given = {"GATEWAY_DATA_DIR": data, **environment, **more}
        return await anyio.to_thread.run_sync(
            lambda: invoke(monkeypatch, capsys, "db", *words, environment=given)
        )

    assert "2 files" in (await run("media", "move", "--to", "objects", "--dry-run")).stdout
    assert "2 files" in (await run("media", "move", "--to", "objects")).stdout
    assert len(bucket.keys()) == 3
    copy = await run("backup", str(tmp_path / "copy.db"))
    assert "3 media files" in copy.stderr
    back = await run("media", "move", "--to", "database")
    assert (back.returncode, "3 files" in back.stdout) == (0, True)
    assert "GATEWAY_MEDIA_NEW=database" in back.stderr
    assert "media files" not in (await run("backup", str(tmp_path / "other.db"))).stderr
    assert (await world.http.get(f"/v1/jobs/{job_id}/video")).content == b"a video"
    unset = await run("media", "move", "--to", "objects", GATEWAY_MEDIA_URL="")
    assert (unset.returncode, "GATEWAY_MEDIA_URL" in unset.stderr) == (2, True)


def test_a_whole_job_leaves_its_video_in_the_storage_and_the_client_follows(
    bucket: Bucket, tmp_path: Path
) -> None:
    settings = {f"GATEWAY_{name.upper()}": value for name, value in bucket.settings().items()}
    settings["GATEWAY_MEDIA_DELIVERY"] = "redirect"
    with (
        live(tmp_path, step_seconds=0.02, **settings) as servers,
        GatewayClient(servers.url) as client,
    ):
        request = wire.JobRequest(workflow="smoke", request={})
        job = client.wait(client.submit(request, files=FILES).id, seconds=60)
        assert job.status == "succeeded", job.error
        got = client.download(job.id, tmp_path / "out.mp4")
        assert hashlib.sha256((tmp_path / "out.mp4").read_bytes()).hexdigest() == got.sha256
        assert any(got.sha256 in key for key in bucket.keys())  # noqa: SIM118
