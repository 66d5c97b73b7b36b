"""What the client makes of answers that no ComfyUI is known to give."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from app.comfy.client import ComfyClient, EngineFaulted, GraphRefused
from app.comfy.stream import StreamLost
from app.telemetry import Trace, continue_trace

ID = "0f8fad5b-d9cb-469f-a165-70867728950e"


async def _pieces() -> AsyncIterator[bytes]:
    yield b"x"


@pytest.mark.parametrize(
    ("answer", "call"),
    [
        ([], lambda c: c.queue()),
        ({"queue_running": [["x"]], "queue_pending": []}, lambda c: c.queue()),
        ({"queue_running": [], "queue_pending": [["first", ID]]}, lambda c: c.queue()),
        ({ID: {"status": {"messages": []}, "outputs": {}}}, lambda c: c.history(ID)),
        ({ID: {"status": {"messages": ["end"]}, "outputs": {}}}, lambda c: c.history(ID)),
        (
            {ID: {"status": {"messages": [], "status_str": "success"}, "outputs": None}},
            lambda c: c.history(ID),
        ),
        ({}, lambda c: c.upload("a.png", _pieces(), size_bytes=1)),
    ],
)
async def test_a_misshapen_answer_is_the_engines_fault(
    answer: object, call: Callable[[ComfyClient], Awaitable[object]]
) -> None:
    with pytest.raises(EngineFaulted):
        await _asked(200, answer, call)


@pytest.mark.parametrize("nodes", [[], ["1"], {"1": None}, {"1": {"errors": ["bad"]}}])
async def test_a_refusal_is_one_whatever_form_its_reasons_have(nodes: object) -> None:
    answer = {"error": {"type": "odd", "message": "No."}, "node_errors": nodes}
    with pytest.raises(GraphRefused, match=r"No\."):
        await _asked(400, answer, lambda c: c.submit({}, prompt_id=ID, client_id=ID, preview=False))


async def test_calls_for_a_traced_job_bear_its_trace_and_others_none() -> None:
    heads: list[str] = []

    async def look(client: ComfyClient) -> None:
        await client.queue()

    async def listen(client: ComfyClient) -> None:
        with pytest.raises(StreamLost):
            async with client.stream("me"):
                pass

    async def in_trace(call: Callable[[ComfyClient], Awaitable[object]]) -> None:
        continue_trace(trace.headers())
        await _asked(200, empty, call, heads)

    empty: dict[str, list[object]] = {"queue_running": [], "queue_pending": []}
    trace = Trace("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", sampled=True, state="a=1")
    await asyncio.gather(in_trace(look), in_trace(listen))
    assert len(heads) == 2
    spans = set()
    for head in heads:
        lines = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:] if line)
        found = Trace.parse(lines["traceparent"], lines["tracestate"])
        assert found is not None
        assert (found.trace_id, found.sampled, found.state) == (trace.trace_id, True, "a=1")
        spans.add(found.span_id)
    assert len(spans) == 2, "each call is a span of its own"
    await _asked(200, empty, look, heads)
    assert "traceparent" not in heads[2]


async def _asked(
    status: int,
    answer: object,
    call: Callable[[ComfyClient], Awaitable[object]],
    heads: list[str] | None = None,
) -> None:
    body = json.dumps(answer).encode()
    head = f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head_sent = await reader.readuntil(b"\r\n\r\n")
        if heads is not None:
            heads.append(head_sent.decode())
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        client = ComfyClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        try:
            await call(client)
        finally:
            await client.aclose()
