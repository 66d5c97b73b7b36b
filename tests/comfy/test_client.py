"""What the client makes of answers that no ComfyUI is known to give."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from app.comfy.client import ComfyClient, EngineFaulted, GraphRefused

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


async def _asked(
    status: int, answer: object, call: Callable[[ComfyClient], Awaitable[object]]
) -> None:
    body = json.dumps(answer).encode()
    head = f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        client = ComfyClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        try:
            await call(client)
        finally:
            await client.aclose()
