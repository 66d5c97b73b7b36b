"""A client that means harm: every answer is a refusal in words, and the gateway stays as it was."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import struct
import time
import zipfile
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from app.settings import Settings
from tests.apikit import World, drip, opened, until
from tests.mediakit import image_bytes

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def world(shared: World) -> World:
    """One gateway for the module."""
    return shared


async def raw(world: World, data: bytes, *, then: bytes = b"", seconds: float = 10) -> bytes:
    """What a real server answers to bytes that no HTTP client would send."""
    host, port = world.http.base_url.host, world.http.base_url.port
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(data)
    await writer.drain()
    if then:
        writer.write(then)
    if writer.can_write_eof():
        writer.write_eof()
    try:
        async with asyncio.timeout(seconds):
            return await reader.read()
    finally:
        writer.close()


def statuses(answer: bytes) -> list[int]:
    """The status of every answer on a connection."""
    parts = answer.split(b"HTTP/1.1 ")[1:]
    return [int(part[:3]) for part in parts]


# --- paths and headers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/..%2f..%2fetc%2fpasswd",
        "/%2e%2e/%2e%2e/app/main.py",
        "/css/..%2f..%2fservices.py",
        "/js/%00",
        "/index.html%00.png",
        "//etc/passwd",
        "/./app/main.py",
        "/dashboard/../services.py",
        "/css",
        "/problems/..%2f..%2fetc",
        "/v1/workflows/..%2f..%2fetc",
        "/v1/uploads/..%2f..%2fetc%2fpasswd/content",
        "/v1/jobs/%F0%9F%92%A9",
        "/v1/jobs/%ff%fe",
        "/v1/jobs/" + "a" * 5000,
    ],
)
async def test_no_path_leads_out(world: World, path: str) -> None:
    answer = await world.http.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) < 1000


async def test_headers_of_the_caller_never_become_headers_of_the_answer(live: World) -> None:
    evil = b"x\r\nSet-Cookie: a=b"
    for name in (b"X-Request-Id", b"Idempotency-Key", b"traceparent", b"Origin"):
        answer = await raw(
            live,
            b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            + name
            + b": "
            + evil.replace(b"\r\n", b"%0d%0a\\r\\n")
            + b"\r\n\r\n",
        )
        assert b"set-cookie" not in answer.partition(b"\r\n\r\n")[0].lower()


@pytest.mark.parametrize("key", ["", " ", "a b", "\x7f", "é", "x" * 256])
async def test_an_idempotency_key_is_plain_text(world: World, key: str) -> None:
    answer = await world.http.post(
        "/v1/jobs",
        json={"workflow": "smoke", "request": await world.media()},
        headers=[(b"Idempotency-Key", key.encode())],
    )
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/Idempotency-Key"


@pytest.mark.parametrize(
    "query",
    [
        "&".join(["status=queued"] * 700),
        "&".join(f"metadata.key{n}=v" for n in range(70)),
        "&".join(f"metadata.key{n}=v" for n in range(16)),
    ],
)
async def test_a_list_asked_for_in_a_thousand_ways_is_a_list_or_a_refusal(
    world: World, query: str
) -> None:
    answer = await world.http.get(f"/v1/jobs?{query}")
    assert answer.status_code == (422 if "key69" in query else 200), answer.text


async def test_a_slash_too_many_leads_to_no_host_of_the_callers(world: World) -> None:
    for path in ("/v1/jobs/", "/v1/uploads/", "/healthz/"):
        answer = await world.http.get(path, headers={"Host": "evil.example"})
        assert (answer.status_code, answer.headers.get("location")) == (404, None)


# --- framing -------------------------------------------------------------------------------------

HEAD = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"Content-Length: -5\r\n\r\n{}",
        HEAD + b"Content-Length: 5x\r\n\r\n{}",
        HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
        HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n{}\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip\r\n\r\n{}",
        b"GET /v1/jobs\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_broken_framing_is_refused_and_stores_nothing(live: World, data: bytes) -> None:
    before = await live.count("job")
    answer = await raw(live, data)
    assert all(400 <= status < 500 for status in statuses(answer)), answer[:200]
    assert await live.count("job") == before


async def test_a_request_hidden_in_a_body_is_not_answered_as_the_callers_next(live: World) -> None:
    hidden = b"GET /v1/keys HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer = await raw(
        live,
        HEAD
        + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\nConnection: close\r\n\r\n0\r\n\r\n"
        + hidden,
    )
    assert len(statuses(answer)) <= 1, "length and chunks together are one request or none"


async def test_what_stands_behind_a_chunked_body_is_no_header(live: World) -> None:
    host, port = live.http.base_url.host, live.http.base_url.port
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(
        HEAD
        + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\n{}\r\n0\r\n"
        + b"Authorization: Bearer wrong\r\nX-Request-Id: trailer\r\n\r\n"
    )
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    assert statuses(answer) == [422], "the body is judged, and not the trailer's key"
    assert b"trailer" not in answer


@pytest.mark.parametrize("hosts", [b"", b"Host: localhost\r\nHost: evil.example\r\n"])
async def test_a_request_names_one_host(live: World, hosts: bytes) -> None:
    answer = await raw(live, b"GET /healthz HTTP/1.1\r\n" + hosts + b"\r\n")
    assert statuses(answer) == [400]
    assert b"malformed-request" in answer
    assert b"content-type: application/problem+json" in answer
    assert b"x-content-type-options: nosniff" in answer


@pytest.mark.parametrize(
    ("before", "piece"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", b"X-A: %s\r\n" % (b"a" * 1000)),
        (b"GET /", b"a" * 1000),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: ", b"a" * 1000),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;", b"a" * 1000),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-A: ", b"a" * 1000),
    ],
    ids=["headers", "path", "header", "chunk extension", "trailer"],
)
async def test_a_head_without_an_end_is_left(live: World, before: bytes, piece: bytes) -> None:
    host, port = live.http.base_url.host, live.http.base_url.port
    reader, writer = await asyncio.open_connection(host, port)
    sent = 0
    writer.write(before)
    with contextlib.suppress(ConnectionError):
        while sent < 4 << 20 and not reader.at_eof():
            writer.write(piece * 10)
            await writer.drain()
            await asyncio.sleep(0)
            sent += 10 * len(piece)
    writer.close()
    assert sent < 4 << 20, "the server went on reading"


@pytest.mark.parametrize(
    ("first", "status"),
    [(b"", 0), (b"GET /healthz HTTP/1.1\r\nX-A: ", 408)],
    ids=["silence", "a drip"],
)
async def test_a_head_that_does_not_come_is_not_waited_for(
    live: World, monkeypatch: pytest.MonkeyPatch, first: bytes, status: int
) -> None:
    monkeypatch.setattr("app.api.connection.HEAD_SECONDS", 0.3)
    async with asyncio.timeout(30):
        answer = await drip(live, first, first and b"a")
    assert statuses(answer) == ([status] if status else [])


async def test_the_rest_of_a_refused_body_is_not_read_for_ever(
    live: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.api.connection._REST_SECONDS", 0.2)
    head = b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    async with asyncio.timeout(30):
        answer = await drip(live, head, b"x")
    assert statuses(answer) == [404]


async def test_a_body_shorter_than_it_says_stores_nothing(live: World) -> None:
    before = await live.count("job"), await live.count("upload")
    await raw(live, HEAD + b'Content-Length: 500\r\n\r\n{"workflow": "smoke"')
    await raw(
        live,
        b"POST /v1/uploads HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500000\r\n\r\n"
        + live.photo,
    )
    assert (await live.count("job"), await live.count("upload")) == before
    await until(lambda: not any(live.gateway.spool.iterdir()))


async def test_many_slow_bodies_do_not_keep_others_waiting(live: World) -> None:
    host, port = live.http.base_url.host, live.http.base_url.port
    head = b"POST /v1/uploads HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n\r\nx"
    slow = [await asyncio.open_connection(host, port) for _ in range(50)]
    for _, writer in slow:
        writer.write(head)
        await writer.drain()
    begun = time.monotonic()
    assert (await live.http.get("/v1/jobs")).status_code == 200
    await live.upload(live.photo)
    assert time.monotonic() - begun < 60
    for _, writer in slow:
        writer.close()
    await until(lambda: not any(live.gateway.spool.iterdir()))


# --- JSON ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: b'{"request":' + b'{"a":' * 150_000 + b"1" + b"}" * 150_000 + b"}",
        lambda: b"[" * 1_000_000,
        lambda: b'{"request":{' + b",".join(b'"k%d":1' % n for n in range(60_000)) + b"}}",
        lambda: b'{"request":{' + b",".join(b'"k%d":1' % n for n in range(990)) + b"}}",
        lambda: b'{"request":{"seed":' + b"1" * 1_000_000 + b"}}",
        lambda: b'{"request":{"prompt":"' + b"\\u0041" * 170_000 + b'"}}',
        lambda: b'{"request":{},"metadata":{"' + b"k" * 500_000 + b'":"v"}}',
        lambda: b'{"request":{"driving_video":[' + b"{}," * 300_000 + b"{}]}}",
    ],
)
async def test_large_and_strange_json_is_refused_quickly_and_briefly(
    world: World, make: Callable[[], bytes]
) -> None:
    before = await world.count("job")
    begun = time.monotonic()
    answer = await world.http.post(
        "/v1/jobs", content=make(), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code in {400, 413, 422}, answer.text[:300]
    assert answer.headers["content-type"] == "application/problem+json"
    assert time.monotonic() - begun < 20
    assert len(answer.content) < 100_000, "what was sent is not sent back"
    assert await world.count("job") == before


@pytest.mark.parametrize(
    "text",
    [
        "{{7*7}} ${jndi:ldap://x} %s %n",
        '"],"class_type":"LoadImage","inputs":{"image":"/etc/passwd"}',
        "'; DROP TABLE job; --",
        '["1", 0]',
        "\u202eevil\u202c <script>alert(1)</script>",
        "\U0001f483" * 100,
    ],
)
async def test_a_prompt_is_text_and_stays_that_text(world: World, text: str) -> None:
    request = {**await world.media(), "prompt": text}
    answer = await world.http.post("/v1/jobs", json={"request": request})
    assert answer.status_code == 202, answer.text
    job = (await world.http.get(f"/v1/jobs/{answer.json()['id']}")).json()
    assert job["request"]["prompt"] == text
    workflow = world.gateway.workflows.get("steadydancer")
    resolved = {
        name: value
        for name, value in job["request"].items()
        if name in workflow.schema()["properties"]
    }
    graph = workflow.render(
        {name: value for name, value in resolved.items() if name not in workflow.media},
        dict.fromkeys(workflow.media, "file"),
        prefix="x",
    )
    inputs = [value for node in graph.values() for value in node["inputs"].values()]
    assert text in inputs
    await world.http.post(f"/v1/jobs/{job['id']}/cancel")


# --- what is not the caller's --------------------------------------------------------------------


async def test_forged_cursors_and_tags_show_nothing_of_others(
    settings: Settings, photo: bytes, dance: bytes
) -> None:
    async with opened(settings, photo, dance) as world:
        mine, other = await world.key("submit", "read"), await world.key("submit", "read")
        media = await world.media(**other)
        theirs = [(await world.job(media=media, headers=other))["id"] for _ in range(3)]
        page = await world.http.get("/v1/jobs", params={"limit": 1}, headers=other)
        cursor = page.json()["next_cursor"]
        stolen = await world.http.get("/v1/jobs", params={"cursor": cursor}, headers=mine)
        assert stolen.json() == {"jobs": [], "next_cursor": None}
        tag = (await world.http.get(f"/v1/jobs/{theirs[0]}", headers=other)).headers["etag"]
        for forged in (tag, "*", 'W/"1.0"', '"' * 500, "\\", "W/" * 900):
            answer = await world.http.get(
                f"/v1/jobs/{theirs[0]}", headers={**mine, "If-None-Match": forged}
            )
            assert answer.status_code == 404
        for bad in (cursor[:-3], cursor + "A", "e30", "bnVsbA", "W10", "\U0001f483", "=" * 99):
            answer = await world.http.get("/v1/jobs", params={"cursor": bad}, headers=mine)
            assert answer.status_code == 422, bad


async def test_a_wrong_key_learns_nothing_from_the_answer(
    settings: Settings, photo: bytes, dance: bytes
) -> None:
    async with opened(settings, photo, dance) as world:
        key = (await world.key("read"))["Authorization"].partition(" ")[2]
        head, secret = key.rsplit("_", 1)[0], "A" * 43
        told = set()
        for wrong in (f"{head}_{secret}", f"sd_{'0' * 12}_{secret}", "nonsense", f"sds_{secret}x"):
            answer = await world.http.get("/v1/jobs", headers={"Authorization": f"Bearer {wrong}"})
            assert answer.status_code == 401
            if not wrong.startswith("sds_"):
                told.add(answer.text)
        assert len(told) == 1, "an id that exists and one that does not are answered alike"


# --- files ---------------------------------------------------------------------------------------


def png_of(width: int, height: int) -> bytes:
    """A tiny PNG file that claims to be huge, its rows one run of zeros."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1 << 20), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def archive() -> bytes:
    """A zip bomb."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("dance.mp4", bytes(20 << 20))
    return out.getvalue()


BOMBS: dict[str, Callable[[], bytes]] = {
    "png": lambda: png_of(60_000, 60_000),
    "zip": archive,
    "gzip": lambda: gzip.compress(bytes(20 << 20)),
    "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "html": lambda: b"<html><script>alert(1)</script></html>",
    "playlist": lambda: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "concat": lambda: b"ffconcat version 1.0\nfile /etc/passwd\n",
    "sdp": lambda: (
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 5 RTP/AVP 96\n"
    ),
    "truncated": lambda: image_bytes("PNG")[:60],
}


@pytest.mark.parametrize("name", sorted(BOMBS))
async def test_a_bomb_or_a_trick_is_no_medium(world: World, name: str) -> None:
    begun = time.monotonic()
    answer = await world.http.post("/v1/uploads", content=BOMBS[name]())
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] == "unsupported-media"
    assert "/" not in answer.json()["detail"].replace("and/or", ""), "no path of the server"
    assert time.monotonic() - begun < 60


async def test_a_call_that_takes_no_files_takes_no_large_body(world: World) -> None:
    job = await world.job()
    for path in (f"/v1/jobs/{job['id']}/cancel", "/v1/keys", "/v1/system/drain"):
        answer = await world.http.post(path, headers={"Content-Length": str(5 << 20)})
        assert (answer.status_code, answer.json()["code"]) == (413, "payload-too-large")
    assert (await world.http.get(f"/v1/jobs/{job['id']}")).json()["status"] == "queued"


async def test_a_compressed_body_is_not_unpacked(world: World) -> None:
    body = gzip.compress(json.dumps({"workflow": "smoke", "request": {}}).encode())
    answer = await world.http.post(
        "/v1/jobs",
        content=body,
        headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
    )
    assert answer.status_code == 400


async def test_a_polyglot_is_served_as_what_it_was_found_to_be(world: World) -> None:
    page = b"<html><script>alert(document.cookie)</script></html>"
    upload = await world.upload(image_bytes("PNG", width=48) + page)
    answer = await world.http.get(f"/v1/uploads/{upload['id']}/content")
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


# --- addresses -----------------------------------------------------------------------------------


@asynccontextmanager
async def redirecting(target: str) -> AsyncIterator[int]:
    """A server whose every answer leads elsewhere."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield int(server.sockets[0].getsockname()[1])


async def submit_url(world: World, url: str) -> dict[str, Any]:
    media = await world.media()
    media["driving_video"] = {"url": url}
    answer = await world.http.post("/v1/jobs", json={"workflow": "smoke", "request": media})
    assert answer.status_code == 422, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize(
    "host",
    [
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::7f00:1]",
        "[fd00:ec2::254]",
        "0.0.0.0",
        "localhost",
        "localhost.",
        "metadata.google.internal.",
        "127.0.0.1.nip.invalid",
    ],
)
async def test_no_spelling_of_an_inner_address_is_fetched(world: World, host: str) -> None:
    found = await submit_url(world, f"http://{host}:{world.gateway.settings.port}/video.mp4")
    assert found["code"] == "fetch-refused"
    assert found["errors"][0]["pointer"] == "/request/driving_video"


@pytest.mark.parametrize(
    "target", ["http://169.254.169.254/latest/meta-data/", "http://localhost:1/", "file:///etc/x"]
)
async def test_a_redirect_is_no_way_in(
    settings: Settings, photo: bytes, dance: bytes, target: str
) -> None:
    friendly = settings.model_copy(update={"allow_hosts": ("127.0.0.1",)})
    async with redirecting(target) as port, opened(friendly, photo, dance) as world:
        found = await submit_url(world, f"http://127.0.0.1:{port}/dance.mp4")
        assert found["code"] == "fetch-refused"


async def test_a_name_that_changes_its_address_is_judged_by_the_one_that_is_used(
    settings: Settings, photo: bytes, dance: bytes
) -> None:
    asked: list[str] = []

    async def resolver(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) > 1 else ["203.0.113.7", "127.0.0.1"]

    async with opened(settings, photo, dance) as world:
        world.gateway.outbound._resolver = resolver
        for _ in range(2):
            found = await submit_url(world, "http://rebind.example:9/dance.mp4")
            assert found["code"] == "fetch-refused"
        assert len(asked) == 2, "a name is asked for once for each fetch, and then pinned"


async def test_a_webhook_to_an_inner_address_is_never_sent(
    settings: Settings, photo: bytes, dance: bytes
) -> None:
    reached = asyncio.Event()

    async def inner(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        writer.close()

    async def resolver(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1"]

    server = await asyncio.start_server(inner, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, opened(settings, photo, dance) as world:
        world.gateway.outbound._resolver = resolver
        hook = {"url": f"http://hooks.example:{port}/", "events": ["job.canceled"]}
        job = await world.job(webhook=hook)
        await world.http.post(f"/v1/jobs/{job['id']}/cancel")
        path = f"/v1/webhooks/deliveries?job_id={job['id']}"

        async def tried() -> bool:
            shown = (await world.http.get(path)).json()["deliveries"]
            return bool(shown) and shown[0]["attempts"] > 0

        world.gateway.delivery.notify()
        await until(tried)
        found = (await world.http.get(path)).json()["deliveries"][0]

        async def told() -> bool:
            one = (await world.http.get(f"/v1/webhooks/deliveries/{found['id']}")).json()
            return bool(one["tries"]) and one["tries"][0]["status_code"] is None

        await until(told)
        assert not reached.is_set()
