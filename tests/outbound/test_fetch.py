"""Fetching from real servers that misbehave."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import aclosing

import pytest
import trustme

from app.errors import FetchRefused
from app.outbound import Outbound, Resolver
from tests.outbound.conftest import Serve


async def collect(outbound: Outbound, url: str, *, limit: int = 10**6, seconds: float = 5) -> bytes:
    async with aclosing(outbound.fetch(url, limit_bytes=limit, timeout_seconds=seconds)) as chunks:
        return b"".join([chunk async for chunk in chunks])


@pytest.fixture
async def outbound() -> AsyncIterator[Outbound]:
    made = Outbound(allow_hosts=["127.0.0.1", "video.test"])
    yield made
    await made.aclose()


def answer(head: str, body: bytes = b"") -> Callable[..., object]:
    async def respond(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {head}\r\n\r\n".encode() + body)
        await writer.drain()

    return respond


def resolver(*answers: Collection[str]) -> tuple[Resolver, list[str]]:
    """A name server that gives another answer to each question, and counts them."""
    asked: list[str] = []

    async def ask(host: str, port: int) -> Collection[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    return ask, asked


async def test_a_file_arrives_whole(serve: Serve, outbound: Outbound) -> None:
    body = b"frame" * 50_000
    async with serve(answer(f"200 OK\r\nContent-Length: {len(body)}", body)) as server:
        assert await collect(outbound, server.url("/v.mp4?sig=a%2Fb")) == body
        head = server.heads[0].decode().lower()
    assert head.startswith("get /v.mp4?sig=a%2fb http/1.1")
    assert f"host: 127.0.0.1:{server.port}\r\n" in head
    assert "accept-encoding: identity" in head


async def test_nothing_from_the_environment_reaches_a_request(
    serve: Serve, outbound: Outbound, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    head = "200 OK\r\nContent-Length: 2\r\nSet-Cookie: a=b"
    async with serve(answer(head, b"ok")) as server:
        assert await collect(outbound, server.url()) == b"ok"
        assert await collect(outbound, server.url()) == b"ok"
        for sent in server.heads:
            assert b"cookie" not in sent.lower()
            assert b"authorization" not in sent.lower()


async def test_a_name_is_asked_for_once_and_the_connection_goes_where_it_was_vetted(
    serve: Serve,
) -> None:
    ask, asked = resolver(["127.0.0.1"], ["10.0.0.1"])
    outbound = Outbound(allow_hosts=["video.test"], resolver=ask)
    async with serve(answer("200 OK\r\nContent-Length: 2", b"ok")) as server:
        assert await collect(outbound, server.url(host="video.test")) == b"ok"
        assert f"Host: video.test:{server.port}".lower().encode() in server.heads[0].lower()
    assert asked == ["video.test"]
    await outbound.aclose()


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::ffff:127.0.0.1"], ["169.254.169.254"], []],
)
async def test_a_name_is_refused_when_any_of_its_addresses_is_not_public(
    serve: Serve, addresses: list[str]
) -> None:
    ask, _ = resolver(addresses)
    async with serve(answer("200 OK\r\nContent-Length: 2", b"ok")) as server:
        with pytest.raises(FetchRefused) as refused:
            await collect(Outbound(resolver=ask), server.url(host="rebind.test"))
        assert server.heads == []
    assert not any(address in refused.value.detail for address in addresses)


async def test_a_name_that_turns_private_between_two_fetches_is_refused_the_second_time(
    serve: Serve,
) -> None:
    ask, asked = resolver(["127.0.0.1"], ["169.254.169.254"])
    outbound = Outbound(allow_hosts=["rebind.test"], resolver=ask)
    async with serve(answer("200 OK\r\nContent-Length: 2", b"ok")) as server:
        assert await collect(outbound, server.url(host="rebind.test")) == b"ok"
        with pytest.raises(FetchRefused, match="public internet"):
            await collect(outbound, server.url(host="rebind.test"))
    assert len(asked) == 2
    await outbound.aclose()


async def test_the_next_address_is_tried_when_the_first_takes_no_connection(serve: Serve) -> None:
    ask, _ = resolver(["127.0.0.2", "127.0.0.1"])
    outbound = Outbound(allow_hosts=["video.test"], resolver=ask)
    async with serve(answer("200 OK\r\nContent-Length: 2", b"ok")) as server:
        assert await collect(outbound, server.url(host="video.test")) == b"ok"
    await outbound.aclose()


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.2/",
        "http://localhost/",
        "http://169.254.169.254/latest/",
        "http://[::1]/",
        "//10.0.0.1/",
        "file:///etc/passwd",
        "http://a:b@video.test/",
        "http://[",
    ],
)
async def test_a_redirect_is_vetted_like_the_first_url(
    serve: Serve, outbound: Outbound, location: str
) -> None:
    async with serve(answer(f"302 Found\r\nLocation: {location}\r\nContent-Length: 0")) as server:
        with pytest.raises(FetchRefused):
            await collect(outbound, server.url())
        assert len(server.heads) == 1


async def test_a_relative_redirect_is_followed_and_an_endless_one_ended(
    serve: Serve, outbound: Outbound
) -> None:
    async def respond(head: bytes, writer: asyncio.StreamWriter) -> None:
        path = head.split()[1]
        if path == b"/once":
            writer.write(b"HTTP/1.1 307 x\r\nLocation: file\r\nContent-Length: 0\r\n\r\n")
        elif path == b"/file":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        else:
            writer.write(b"HTTP/1.1 301 x\r\nLocation: /loop\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with serve(respond) as server:
        assert await collect(outbound, server.url("/once")) == b"ok"
        server.heads.clear()
        with pytest.raises(FetchRefused, match="more than 5 times"):
            await collect(outbound, server.url("/loop"))
        assert len(server.heads) == 6


async def test_a_declared_size_over_the_limit_is_refused_before_a_byte_is_taken(
    serve: Serve, outbound: Outbound
) -> None:
    async with serve(answer("200 OK\r\nContent-Length: 99999999999", b"x")) as server:
        with pytest.raises(FetchRefused, match="larger than the allowed 1,000 bytes"):
            await collect(outbound, server.url(), limit=1000)


async def test_an_undeclared_size_is_cut_at_the_limit(serve: Serve, outbound: Outbound) -> None:
    sent = 0

    async def respond(_: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            sent += 65_536
            await writer.drain()

    taken = 0
    async with serve(respond) as server:
        with pytest.raises(FetchRefused, match="larger"):  # noqa: PT012 - the stream must be read
            async for chunk in outbound.fetch(
                server.url(), limit_bytes=200_000, timeout_seconds=25
            ):
                taken += len(chunk)
    assert taken <= 200_000


async def test_a_compressed_body_is_refused_unread(serve: Serve, outbound: Outbound) -> None:
    bomb = gzip.compress(bytes(10_000_000))
    head = f"200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}"
    async with serve(answer(head, bomb)) as server:
        with pytest.raises(FetchRefused, match="compressed"):
            await collect(outbound, server.url())


@pytest.mark.parametrize("stall_in", ["head", "body"])
async def test_a_server_that_drips_bytes_is_left_at_the_deadline(
    serve: Serve, outbound: Outbound, stall_in: str
) -> None:
    async def respond(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        if stall_in == "body":
            writer.write(b"y\r\n\r\n")
        while True:
            writer.write(b"z")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with serve(respond) as server:
        begun = time.monotonic()
        with pytest.raises(FetchRefused, match=r"in time|too slowly"):
            await collect(outbound, server.url(), seconds=0.4)
        assert 0.3 < time.monotonic() - begun < 60


async def test_silence_ends_a_fetch_long_before_its_deadline(serve: Serve) -> None:
    outbound = Outbound(allow_hosts=["127.0.0.1"], idle_seconds=0.2)

    async def respond(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        await writer.drain()
        await asyncio.sleep(30)

    async with serve(respond) as server:
        begun = time.monotonic()
        with pytest.raises(FetchRefused, match="too slowly"):
            await collect(outbound, server.url(), seconds=30)
        assert time.monotonic() - begun < 25
    await outbound.aclose()


async def test_a_slow_name_server_counts_towards_the_deadline() -> None:
    async def ask(host: str, port: int) -> Collection[str]:
        await asyncio.sleep(30)
        return ["8.8.8.8"]

    with pytest.raises(FetchRefused, match="in time"):
        await collect(Outbound(resolver=ask), "http://slow.test/", seconds=0.1)


@pytest.mark.parametrize(
    "head", ["404 Not Found\r\nContent-Length: 0", "206 Partial\r\nContent-Length: 0", "NONSENSE"]
)
async def test_anything_but_200_is_refused(serve: Serve, outbound: Outbound, head: str) -> None:
    async with serve(answer(head)) as server:
        with pytest.raises(FetchRefused):
            await collect(outbound, server.url())


async def test_a_truncated_body_is_an_error_and_never_a_short_file(
    serve: Serve, outbound: Outbound
) -> None:
    async with serve(answer("200 OK\r\nContent-Length: 100", b"abc")) as server:
        with pytest.raises(FetchRefused, match="before the file was complete"):
            await collect(outbound, server.url())


async def test_tls_is_verified_against_the_name_and_not_the_address(serve: Serve) -> None:
    authority = trustme.CA()
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("video.test").configure_cert(theirs)
    ours = ssl.create_default_context()
    authority.configure_trust(ours)
    ask, _ = resolver(["127.0.0.1"])
    names = ["video.test", "other.test", "127.0.0.1"]
    outbound = Outbound(allow_hosts=names, resolver=ask, tls=ours)
    async with serve(answer("200 OK\r\nContent-Length: 2", b"ok"), tls=theirs) as server:
        assert await collect(outbound, server.url(host="video.test", scheme="https")) == b"ok"
        for name in names[1:]:
            with pytest.raises(FetchRefused, match="TLS certificate"):
                await collect(outbound, server.url(host=name, scheme="https"))
    await outbound.aclose()


async def test_a_post_gives_the_answer_and_follows_no_redirect(
    serve: Serve, outbound: Outbound
) -> None:
    head = "302 Found\r\nLocation: /elsewhere\r\nRetry-After: 7\r\nContent-Length: 5"
    async with serve(answer(head, b"moved")) as server:
        got = await outbound.post(
            server.url("/hook"), b"{}", {"content-type": "application/json"}, timeout_seconds=60
        )
        assert (got.status_code, got.text, got.retry_after) == (302, "moved", 7)
        assert len(server.heads) == 1


async def test_a_post_reads_only_the_beginning_of_an_endless_answer(
    serve: Serve, outbound: Outbound
) -> None:
    async def respond(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()

    async with serve(respond) as server:
        got = await outbound.post(server.url(), b"{}", {}, timeout_seconds=60)
    assert got.status_code == 200
    assert len(got.text) == 8192


async def test_a_post_takes_the_status_of_an_answer_whose_body_stalls(
    serve: Serve, outbound: Outbound
) -> None:
    async def respond(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 202 OK\r\n\r\nhi")
        await writer.drain()
        await asyncio.sleep(30)

    async with serve(respond) as server:
        got = await outbound.post(server.url(), b"{}", {}, timeout_seconds=0.3)
    assert (got.status_code, got.text) == (202, "hi")
