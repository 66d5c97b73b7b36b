"""The client understands what the real ComfyUI said, fed by a server that plays the recordings.

Every recorded answer to a call that the client makes is played to it over real HTTP, and every
recorded frame over a real websocket; what it made of them is held against the recording itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from websockets.asyncio.server import ServerConnection, serve

from app.comfy import messages
from app.comfy.client import (
    Absent,
    AnswerLost,
    ComfyClient,
    EngineError,
    EngineFaulted,
    EngineUnreachable,
    GraphRefused,
    Pending,
    UploadTooLarge,
)
from app.comfy.messages import OutputFile
from app.comfy.stream import StreamLost
from tests.ports import free_port

HERE = Path(__file__).parent
RECORDINGS = sorted(HERE.glob("transcripts*/*.json"))


def http(recording: Path) -> list[dict[str, Any]]:
    events = json.loads(recording.read_text())["events"]
    return [event for event in events if event["channel"] == "http" and event.get("status")]


def frames(recording: Path) -> list[dict[str, Any]]:
    events = json.loads(recording.read_text())["events"]
    return [
        event
        for event in events
        if event["channel"] == "ws"
        and event.get("direction") == "server->client"
        and isinstance(event.get("message"), dict)
        and "type" in event["message"]
    ]


@dataclass
class Player:
    """A server that gives the answers it is told to give, in order."""

    port: int
    answers: list[dict[str, Any]]
    asked: list[str]

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                method, path, _ = line.decode().split()
                length = 0
                while (header := await reader.readline()) not in {b"\r\n", b""}:
                    name, _, value = header.decode().partition(":")
                    if name.lower() == "content-length":
                        length = int(value)
                await reader.readexactly(length)
                self.asked.append(f"{method} {path.partition('?')[0]}")
                self._answer(writer, method)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    def _answer(self, writer: asyncio.StreamWriter, method: str) -> None:
        played = self.answers.pop(0)
        said = played["response"]
        body = said.encode() if isinstance(said, str) else json.dumps(said).encode()
        if said is None:
            body = b""
        kind = (played.get("response_headers") or {}).get("Content-Type", "application/json")
        head = f"HTTP/1.1 {played['status']} X\r\nContent-Type: {kind}\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        if method != "HEAD":
            writer.write(body)


@asynccontextmanager
async def playing(*answers: dict[str, Any]) -> AsyncIterator[tuple[ComfyClient, Player]]:
    player = Player(free_port(), list(answers), [])
    server = await asyncio.start_server(player.handle, "127.0.0.1", player.port)
    client = ComfyClient(f"http://127.0.0.1:{player.port}", timeout_seconds=60)
    try:
        yield client, player
    finally:
        await client.aclose()
        server.close()


def named(recording: Path) -> str:
    return f"{recording.parent.name}/{recording.stem}"


OK = {"status": 200, "response": {}}


@pytest.mark.parametrize("recording", RECORDINGS, ids=named)
async def test_every_recorded_answer_to_a_prompt_is_taken_for_what_it_is(recording: Path) -> None:
    prompts = [e for e in http(recording) if (e["method"], e["path"]) == ("POST", "/prompt")]
    for event in prompts:
        said = event["response"]
        async with playing(event, OK, OK) as (client, player):
            ask = client.submit({}, prompt_id=str(uuid4()), client_id="c", preview=False)
            if event["status"] == 200 and not said["node_errors"]:
                await ask
                assert player.asked == ["POST /prompt"]
            elif event["status"] in {200, 400}:
                with pytest.raises(GraphRefused) as refused:
                    await ask
                expected = sum(len(n["errors"]) for n in (said["node_errors"] or {}).values())
                assert len(refused.value.node_errors) == expected
                if event["status"] == 400:
                    assert refused.value.kind == said["error"]["type"]
                    assert said["error"]["message"] in str(refused.value)
                else:
                    # The part that was accepted is taken out again, pending or running.
                    assert player.asked == ["POST /prompt", "POST /queue", "POST /interrupt"]
            else:
                with pytest.raises(EngineFaulted):
                    await ask


@pytest.mark.parametrize("recording", RECORDINGS, ids=named)
async def test_every_recorded_history_is_read(recording: Path) -> None:
    for event in http(recording):
        _, _, prompt_id = event["path"].partition("/history/")
        if event["method"] != "GET" or not prompt_id:
            continue
        async with playing(event) as (client, _):
            entry = await client.history(prompt_id)
        said = event["response"]
        if prompt_id not in said:
            assert entry is None
            continue
        assert entry is not None
        last, data = said[prompt_id]["status"]["messages"][-1]
        outcomes = {
            "execution_success": "success",
            "execution_error": "error",
            "execution_interrupted": "interrupted",
        }
        assert entry.outcome == outcomes[last]
        told = json.dumps(said[prompt_id]["outputs"])
        for file in entry.outputs:
            assert file.filename in told
        assert len(entry.outputs) == told.count('"filename"')
        if last == "execution_error":
            assert entry.error is not None
            assert entry.error.node_id == data["node_id"]
            assert entry.error.exception_type == data["exception_type"]


@pytest.mark.parametrize("recording", RECORDINGS, ids=named)
async def test_every_recorded_queue_is_read_in_the_order_in_which_it_will_run(
    recording: Path,
) -> None:
    for event in http(recording):
        if (event["method"], event["path"], event["status"]) != ("GET", "/queue", 200):
            continue
        async with playing(event, event, {"status": 200, "response": {}}) as (client, _):
            state = await client.queue()
            located = await client.locate(str(uuid4()))
        said = event["response"]
        assert state.running == tuple(item[1] for item in said["queue_running"])
        numbers = {item[1]: item[0] for item in said["queue_pending"]}
        assert list(state.pending) == sorted(numbers, key=lambda one: numbers[one])
        assert located == Absent(), "in neither queue nor history means gone"
        for prompt_id in set(state.pending) - set(state.running):
            async with playing(event) as (client, player):
                assert await client.locate(prompt_id) == Pending()
                assert player.asked == ["GET /queue"], "the queue is read first"


@pytest.mark.parametrize("recording", RECORDINGS, ids=named)
async def test_every_recorded_upload_gives_the_name_that_a_graph_must_use(
    recording: Path,
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"abc"

    for event in http(recording):
        if (event["method"], event["path"]) != ("POST", "/upload/image"):
            continue
        async with playing(event) as (client, _):
            ask = client.upload("x.png", pieces(), size_bytes=3, subfolder="s")
            said = event["response"]
            if event["status"] == 200:
                inside = said["subfolder"]
                assert await ask == (f"{inside}/{said['name']}" if inside else said["name"])
            else:
                expected = UploadTooLarge if event["status"] == 413 else EngineFaulted
                with pytest.raises(expected):
                    await ask


CALLS: dict[tuple[str, str], Callable[[ComfyClient], Any]] = {
    ("GET", "/system_stats"): lambda client: client.system_stats(),
    ("GET", "/features"): lambda client: client.features(),
    ("POST", "/interrupt"): lambda client: client.interrupt(str(uuid4())),
    ("POST", "/queue"): lambda client: client.delete_pending(str(uuid4())),
    ("POST", "/free"): lambda client: client.free(),
    ("HEAD", "/view"): lambda client: client.exists(OutputFile("a", "", "output")),
}


@pytest.mark.parametrize("recording", RECORDINGS, ids=named)
async def test_every_other_recorded_answer_is_taken_or_refused_in_words(recording: Path) -> None:
    for event in http(recording):
        call = CALLS.get((event["method"], event["path"].partition("?")[0]))
        if call is None:
            continue
        async with playing(event) as (client, _):
            if event["status"] in {200, 404}:
                answer = await call(client)
                if event["path"] == "/system_stats":
                    said = event["response"]
                    assert answer.comfyui_version == said["system"]["comfyui_version"]
                    assert [device.name for device in answer.devices] == [
                        device["name"] for device in said["devices"]
                    ]
                if event["path"] == "/features":
                    assert answer.max_upload_size == event["response"]["max_upload_size"]
            else:
                with pytest.raises(EngineError):
                    await call(client)


TYPES = {
    "status": messages.QueueRemaining,
    "execution_start": messages.Started,
    "execution_cached": messages.Cached,
    "executing": messages.Executing,
    "progress": messages.NodeProgress,
    "progress_state": messages.NodesProgress,
    "executed": messages.Executed,
    "execution_success": messages.Succeeded,
    "execution_error": messages.Failed,
    "execution_interrupted": messages.Interrupted,
}


@pytest.mark.parametrize("recording", RECORDINGS, ids=named)
async def test_every_recorded_frame_arrives_typed_and_in_order(recording: Path) -> None:
    recorded = [event["message"] for event in frames(recording)]
    port = free_port()

    async def play(socket: ServerConnection) -> None:
        hello = json.loads(await socket.recv())
        assert hello["type"] == "feature_flags", "the first message must be this"
        for message in recorded:
            await socket.send(json.dumps(message))

    heard: list[messages.Message] = []
    async with serve(play, "127.0.0.1", port):
        client = ComfyClient(f"http://127.0.0.1:{port}")
        with pytest.raises(StreamLost):
            await listen(client, heard)
        await client.aclose()
    known = [message for message in recorded if message["type"] in TYPES]
    assert [type(message) for message in heard] == [TYPES[m["type"]] for m in known]
    for message, told in zip(heard, known, strict=True):
        assert message.prompt_id == told["data"].get("prompt_id")
        if isinstance(message, messages.Executing):
            assert message.node == told["data"]["node"]
        if isinstance(message, messages.Failed):
            assert message.error.message == told["data"]["exception_message"].strip()
            assert message.error.kind != "cuda_fault"


async def listen(client: ComfyClient, heard: list[messages.Message]) -> None:
    async with client.stream("c") as stream:
        async for message in stream:
            heard.append(message)  # noqa: PERF401 - it ends with an error, and what came is kept


def test_recorded_failures_are_told_apart() -> None:
    kinds: dict[str, str] = {}
    for recording in RECORDINGS:
        for event in frames(recording):
            if event["message"]["type"] == "execution_error":
                error = messages.parse_error(event["message"]["data"])
                kinds[error.exception_type.rpartition(".")[2]] = error.kind
    assert kinds["OutOfMemoryError"] == "out_of_memory"
    assert kinds["UnidentifiedImageError"] == "bad_media"
    assert kinds["InvalidDataError"] == "bad_media"
    assert kinds["SafetensorError"] == "missing_model"
    assert kinds["RuntimeError"] == "execution_error"


async def test_a_call_that_was_not_received_is_told_from_an_answer_that_was_lost() -> None:
    port = free_port()
    client = ComfyClient(f"http://127.0.0.1:{port}", timeout_seconds=30)
    with pytest.raises(EngineUnreachable):
        await client.submit({}, prompt_id=str(uuid4()), client_id="c", preview=False)

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", port)
    with pytest.raises(AnswerLost):
        await client.submit({}, prompt_id=str(uuid4()), client_id="c", preview=False)
    server.close()
    await client.aclose()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("No such file: /home/me/ComfyUI/models/vae/x.safetensors", "…/x.safetensors"),
        (r"cannot open C:\ComfyUI\models\x.bin now", "…/x.bin"),
        ("1/2 of the frames, and/or more", "1/2 of the frames, and/or more"),
    ],
)
def test_paths_of_the_server_are_not_shown(text: str, shown: str) -> None:
    assert shown in messages.public_text(text)
    assert "/home" not in messages.public_text(text)
