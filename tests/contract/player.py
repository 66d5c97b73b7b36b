"""Plays a recorded client against a running stand-in and compares what comes back."""

from __future__ import annotations

import asyncio
import json
import struct
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.contract import bodies
from tests.contract.compare import RACING, compare_answer, compare_stream
from tests.contract.normal import Names
from tests.contract.recording import Action, Recording
from tests.contract.server import StandInProcess

PATIENCE = 90.0
POLL = 0.01
EMPTY_WEIGHTS = "SafetensorError"

Message = dict[str, Any]


class Socket:
    """One websocket and all it has received."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.messages: list[Message] = []
        self.closed_with: int | None = None
        self._news = asyncio.Event()
        self.reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while True:
                frame = await self.connection.recv()
                self.messages.append(
                    {"message": json.loads(frame)}
                    if isinstance(frame, str)
                    else {"binary": describe(frame)}
                )
                self._news.set()
        except ConnectionClosed:
            self.closed_with = self.connection.close_code

    async def receives(self, due: list[str], *, counting: bool) -> None:
        """Wait until messages of these kinds are there, in order.

        Args:
            due: The kinds; status messages are left out of the order.
            counting: Whether at least as many status messages must be there.
        """
        wanted = [kind for kind in due if kind != "status"]
        statuses = due.count("status") if counting else min(1, len(due))

        def arrived() -> bool:
            kinds = [_kind(message) for message in self.messages]
            return kinds.count("status") >= statuses and _contains(kinds, wanted)

        try:
            async with asyncio.timeout(PATIENCE):
                while not arrived():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            kinds = [_kind(message) for message in self.messages]
            raise AssertionError(f"never {due[-6:]} at the end of {kinds}") from None

    async def close(self) -> None:
        """Hang up as the recorded client did."""
        await self.connection.close()
        await self.reader


def describe(frame: bytes) -> dict[str, Any]:
    """A binary frame as the recordings describe one, without its lengths."""
    kind = struct.unpack(">I", frame[:4])[0]
    if kind == 4:
        length = struct.unpack(">I", frame[4:8])[0]
        metadata = json.loads(frame[8 : 8 + length])
        image = frame[8 + length :]
        return {"event_type": 4, "metadata": metadata, "image_magic_hex": image[:4].hex()}
    picture_format = {1: "JPEG", 2: "PNG"}[struct.unpack(">I", frame[4:8])[0]]
    return {
        "event_type": kind,
        "image_format": picture_format,
        "image_magic_hex": frame[8:12].hex(),
    }


class Player:
    """One scenario against one server."""

    def __init__(self, recording: Recording, server: StandInProcess) -> None:
        self._recording = recording
        self._server = server
        self._http = httpx.AsyncClient(timeout=PATIENCE)
        self._sockets: dict[str, Socket] = {}
        self._gone: set[str] = set()
        self.names = Names(root=server.directory.resolve())

    async def play(self) -> None:
        """Do all that the recorded client did; compare every answer and every stream."""
        try:
            for action in self._recording.actions():
                await self._arrived(action.at)
                await self._act(action)
            await self._arrived(float("inf"))
        finally:
            for name, socket in self._sockets.items():
                if name not in self._gone:
                    await socket.close()
            await self._http.aclose()
        for name, socket in self._sockets.items():
            recorded = self._recording.received(name)
            compare_stream(self._recording, name, recorded, socket.messages, self.names)

    async def _act(self, action: Action) -> None:
        event = action.event
        match action.kind:
            case "http":
                await self._exchange(event)
            case "open":
                url = self._server.url.replace("http", "ws", 1) + event["path"]
                connection = await connect(url, compression=None, max_size=None)
                self._sockets[event["socket"]] = Socket(connection)
                self._gone.discard(event["socket"])
            case "say":
                await self._sockets[event["socket"]].connection.send(json.dumps(event["message"]))
            case "close":
                if event["socket"] not in self._gone:
                    self._gone.add(event["socket"])
                    await self._sockets[event["socket"]].close()
            case "kill":
                await asyncio.to_thread(self._server.kill)
                await self._lost()
            case "terminate":
                await asyncio.to_thread(self._server.terminate)
                await self._lost()
            case "restart":
                await asyncio.to_thread(self._server.start)

    async def _lost(self) -> None:
        """Every open socket ends without a word, as when the real server died."""
        for name in set(self._sockets) - self._gone:
            self._gone.add(name)
            socket = self._sockets[name]
            await asyncio.wait_for(socket.reader, PATIENCE)
            assert socket.closed_with == 1006

    async def _arrived(self, moment: float) -> None:
        """Wait until each open socket has what had been received by a moment."""
        racing = self._recording.name in RACING
        for name in set(self._sockets) - self._gone:
            recorded = self._recording.received(name)
            due = [_kind(event) for event in recorded if event["t"] < moment]
            await self._sockets[name].receives(due, counting=not racing)

    async def _exchange(self, event: dict[str, Any] | Any) -> None:
        if "status" not in event:
            with pytest.raises(httpx.ConnectError):
                await self._send(event)
            return
        await self._arm(event)
        answer = await self._send(event)
        recorded = event["response"]
        if self._should_wait(event):
            async with asyncio.timeout(PATIENCE):
                while answer.json() == {}:
                    await asyncio.sleep(POLL)
                    answer = await self._send(event)
        if event["path"] == "/prompt" and event["method"] == "POST" and answer.status_code == 200:
            self._learn(recorded, answer.json())
        if self._undecided(event) and answer.json() != {}:
            return
        compare_answer(self._recording, event, answer, self.names, self._file_size(event))

    async def _send(self, event: Any) -> httpx.Response:
        path = self.names.rename(event["path"])
        request = self._http.build_request(
            event["method"],
            self._server.url + path,
            headers=event.get("request_headers"),
            **bodies.of(event, self.names),
        )
        return await self._http.send(request)

    def _learn(self, recorded: dict[str, Any], answer: dict[str, Any]) -> None:
        if "prompt_id" not in recorded:
            return
        self.names.ids[recorded["prompt_id"]] = answer["prompt_id"]
        if self.names.base is None:
            self.names.recorded_base = recorded["number"]
            self.names.base = answer["number"]

    async def _arm(self, event: Any) -> None:
        """Let a weight file be empty, as the ones beside the real server were."""
        if event["path"] != "/prompt" or event["status"] != 200:
            return
        recorded_id = (event["response"] or {}).get("prompt_id")
        for other in self._recording.events:
            message = other.get("message") or {}
            data = message.get("data") or {}
            if message.get("type") == "execution_error" and data["prompt_id"] == recorded_id:
                if EMPTY_WEIGHTS not in data["exception_type"]:
                    return
                fault = {
                    "mode": "raise",
                    "node": data["node_id"],
                    "exception_type": data["exception_type"],
                    "message": data["exception_message"].rstrip("\n"),
                    "times": 1,
                }
                url = f"{self._server.url}/standin/misbehave"
                (await self._http.post(url, json=fault)).raise_for_status()

    def _ended_at(self, prompt_id: str) -> float | None:
        """When the recorded client was told that a prompt is over."""
        for event in self._recording.events:
            data = (event.get("message") or {}).get("data") or {}
            if data.get("prompt_id") == prompt_id and data.get("node", "") is None:
                return float(event["t"])
        return None

    def _should_wait(self, event: Any) -> bool:
        """A filled history entry that no message announced in the recording."""
        path = event["path"]
        if not path.startswith("/history/") or not event["response"]:
            return False
        ended = self._ended_at(path.removeprefix("/history/"))
        return ended is None or ended >= event["t_request"]

    def _undecided(self, event: Any) -> bool:
        """History asked while the prompt is about to end: empty or filled, a race in both."""
        path = event["path"]
        if not path.startswith("/history/") or event["response"]:
            return False
        ended = self._ended_at(path.removeprefix("/history/"))
        return ended is not None and ended > event["t_request"]

    def _file_size(self, event: Any) -> int | None:
        parts = urlsplit(event["path"])
        if not parts.path.endswith("/view") or event["status"] not in {200, 206, 416}:
            return None
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        folder = Path(self._server.directory) / query.get("type", "output")
        path = folder / query.get("subfolder", "") / query["filename"]
        return int(path.stat().st_size)


def _kind(event: Message) -> str:
    if "binary" in event:
        return "binary"
    return str(event["message"]["type"])


def _contains(kinds: list[str], wanted: list[str]) -> bool:
    """Whether the wanted kinds are all there, in order, other messages between them allowed."""
    rest = iter(kinds)
    return all(kind in rest for kind in wanted)
