"""Uploads: streamed, judged by content, stored once; and forms that lie."""

from __future__ import annotations

import asyncio
import hashlib
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from app.api.services import HttpLimits
from app.settings import Settings
from tests.apikit import World, drip, opened, serving, until
from tests.mediakit import image_bytes, make_video


@pytest.fixture
def template(migrated: Path) -> Path:
    """An empty store: here it is counted what is stored."""
    return migrated


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def world(settings: Settings, photo: bytes, dance: bytes) -> AsyncIterator[World]:
    async with opened(settings, photo, dance) as made:
        yield made


ENCODED = (
    b"--b\r\nContent-Disposition: form-data; name=file\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\nAAAA\r\n--b--\r\n"
)


async def test_an_upload_tells_what_it_is(world: World) -> None:
    answer = await world.http.post("/v1/uploads", content=world.dance)
    assert answer.status_code == 201
    found = answer.json()
    assert answer.headers["location"] == f"/v1/uploads/{found['id']}"
    assert (found["kind"], found["media_type"]) == ("video", "video/mp4")
    assert (found["width"], found["height"], found["frames"]) == (64, 96, 48)
    assert found["fps"] == 24
    assert found["duration_seconds"] == pytest.approx(2, abs=0.05)
    assert found["has_audio"] is True
    assert found["bytes"] == len(world.dance)
    assert found["sha256"] == hashlib.sha256(world.dance).hexdigest()
    assert (await world.http.get(answer.headers["location"])).json() == found


async def test_the_same_content_is_stored_once(world: World) -> None:
    first = await world.upload(world.photo)
    again = await world.upload(world.photo)
    assert first["id"] == again["id"]
    assert await world.count("blob") == 1


async def test_a_form_with_one_file_is_an_upload_too(world: World) -> None:
    answer = await world.http.post(
        "/v1/uploads", files={"file": ("../../me.png", world.photo, "text/plain")}
    )
    assert answer.status_code == 201
    assert answer.json()["media_type"] == "image/png"


async def test_what_is_declared_too_large_is_refused_before_it_is_sent(world: World) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read += 1
        yield b"x"

    size = world.app.state.services.limits.max_upload_bytes * 4
    answer = await world.http.post(
        "/v1/uploads", content=body(), headers={"Content-Length": str(size)}
    )
    assert (answer.status_code, answer.json()["code"]) == (413, "payload-too-large")
    assert read == 0


async def test_what_turns_out_too_large_is_refused_and_leaves_nothing(
    settings: Settings, photo: bytes, dance: bytes
) -> None:
    small = settings.model_copy(update={"max_upload_bytes": 10_000})
    async with opened(small, photo, dance) as world:
        sent = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal sent
            for _ in range(1000):
                sent += 1000
                yield b"x" * 1000

        answer = await world.http.post("/v1/uploads", content=body())
        assert answer.status_code == 413
        assert sent < 20_000
        assert await world.count("blob") == 0
        assert list((small.data_dir / "spool").iterdir()) == []


WRONG_FORMS = [
    (b"--b\r\nContent-Disposition: form-data; name=file\r\n\r\nabc", 400, "cut off"),
    (b"--b\r\nContent-Disposition: form-data; name=file\r\n\r\nabc\r\n--", 400, "cut off"),
    (b"--b\r\n\r\nabc\r\n--b--\r\n", 400, "no name"),
    (b"--b\r\nContent-Disposition: attachment; name=file\r\n\r\n\r\n--b--", 400, "no name"),
    (b"--other\r\n\r\n\r\n--other--", 400, "multipart"),
    (b"", 400, "cut off"),
    (b"--b--\r\n", 422, "missing"),
    (
        b"--b\r\nContent-Disposition: form-data; name=other\r\n\r\n\r\n--b--\r\n",
        422,
        "'other' is not known",
    ),
    (
        b"--b\r\nContent-Disposition: form-data; name=file\r\nX: " + b"y" * 9_000,
        400,
        "header",
    ),
    (
        ENCODED,
        400,
        "Content-Transfer-Encoding",
    ),
]


async def test_a_form_that_is_none_is_refused_in_words(world: World) -> None:
    for body, status, words in WRONG_FORMS:
        answer = await world.http.post(
            "/v1/uploads",
            content=body,
            headers={"Content-Type": "multipart/form-data; boundary=b"},
        )
        assert answer.status_code == status, (body, answer.text)
        assert words in answer.json()["detail"]
    for kind in ("multipart/form-data", f"multipart/form-data; boundary={'b' * 99}"):
        answer = await world.http.post(
            "/v1/uploads", content=b"--b--", headers={"Content-Type": kind}
        )
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed-body")
    assert await world.count("upload") == 0


async def test_a_form_of_empty_parts_ends_soon(world: World) -> None:
    part = b"--b\r\nContent-Disposition: form-data; name=file\r\n\r\n\r\n"
    answer = await world.http.post(
        "/v1/uploads",
        content=part * 100_000 + b"--b--",
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )
    assert answer.status_code in {400, 413, 422}


async def send_some(world: World) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Begin an upload of half a megabyte and stop after a thousand bytes."""
    host, port = world.http.base_url.host, world.http.base_url.port
    reader, writer = await asyncio.open_connection(host, port)
    head = f"POST /v1/uploads HTTP/1.1\r\nHost: {host}\r\nContent-Length: 500000\r\n\r\n"
    writer.write(head.encode() + b"x" * 1000)
    await writer.drain()
    await until(lambda: any(world.gateway.spool.iterdir()))
    return reader, writer


async def test_a_client_that_goes_away_leaves_nothing(live: World) -> None:
    before = await live.count("blob")
    _, writer = await send_some(live)
    writer.close()
    await until(lambda: not any(live.gateway.spool.iterdir()))
    assert await live.count("blob") == before


@pytest.mark.parametrize("piece", [b"", b"x"], ids=["stands still", "drips"])
async def test_a_body_that_does_not_come_is_given_up(
    settings: Settings,
    photo: bytes,
    dance: bytes,
    piece: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.api.connection._REST_SECONDS", 0.2)
    limits = HttpLimits(body_idle_seconds=0.2)
    async with serving(settings, photo, dance, limits=limits) as world:
        head = b"POST /v1/uploads HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500000\r\n\r\n"
        async with asyncio.timeout(30):
            answer = await drip(world, head + b"x" * 1000, piece)
        assert b" 408 " in answer.partition(b"\r\n")[0]
        assert b"request-timeout" in answer
        assert not any(world.gateway.spool.iterdir())


async def test_uploads_belong_to_their_key(world: World) -> None:
    mine = await world.key("submit", "read")
    other = await world.key("submit", "read")
    upload = await world.upload(world.photo, **mine)
    path = f"/v1/uploads/{upload['id']}"
    assert (await world.http.get(path, headers=mine)).status_code == 200
    assert (await world.http.get(path, headers=other)).status_code == 404
    media = await world.media(**other)
    media["reference_image"] = {"upload_id": upload["id"]}
    body = {"workflow": "smoke", "request": media}
    answer = await world.http.post("/v1/jobs", json=body, headers=other)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/request/reference_image/upload_id"


async def test_bytes_are_counted_against_the_key(
    settings: Settings, photo: bytes, dance: bytes
) -> None:
    little = settings.model_copy(update={"upload_bytes_per_hour": len(photo) + 10})
    async with opened(little, photo, dance) as world:
        key = await world.key("submit", "read")
        await world.upload(photo, **key)
        answer = await world.http.post("/v1/uploads", content=photo, headers=key)
        assert (answer.status_code, answer.json()["code"]) == (429, "rate-limited")
        assert int(answer.headers["retry-after"]) > 0


async def test_a_large_upload_takes_little_memory(live: World, tmp_path: Path) -> None:
    size = 64 << 20
    head = make_video(tmp_path / "large.mp4", frames=24).read_bytes()
    free = (size + 8).to_bytes(4, "big") + b"free"  # a box that players skip
    piece = bytes(1 << 20)

    async def body() -> AsyncIterator[bytes]:
        yield head + free
        for _ in range(size // len(piece)):
            yield piece

    tracemalloc.start()
    try:
        answer = await live.http.post("/v1/uploads", content=body(), timeout=180)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.status_code == 201, answer.text
    assert answer.json()["bytes"] == len(head) + len(free) + size
    assert peak < 20 << 20, f"{peak >> 20} MiB"


async def test_probing_is_not_asked_to_trust_names(world: World) -> None:
    webp = image_bytes("WEBP")
    answer = await world.http.post(
        "/v1/uploads", content=webp, headers={"Content-Type": "video/mp4", "X-Filename": "a.mp4"}
    )
    assert answer.json()["media_type"] == "image/webp"
