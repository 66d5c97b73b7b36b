"""What a running ComfyUI remembers: its queue, its history and its open sockets.

All of it lives in memory only and is touched from the event loop alone, so it needs no locks.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from starlette.websockets import WebSocketDisconnect

HISTORY_LIMIT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What one stand-in was started with.

    Attributes:
        version: The ComfyUI version whose behavior is shown, such as `0.28.1`.
        directory: Holds `input`, `output`, `temp` and the run log.
        step_seconds: How long one sampling step takes.
        work: Whether frames are really made and encoded; otherwise a tiny file of the right shape.
        output_bytes: Size every video is padded to; 0 leaves it as encoded.
        max_upload_bytes: Limit of any request body.
        need_mib: Node class to the card memory that its models hold until `/free`; an empty name
            stands for what every prompt needs.
        vram_total_mib: Size of the simulated card; 0 shows a CPU as ComfyUI's `--cpu` does.
        cuda_allocate: Whether `need_mib` is really allocated on `cuda:0`.
        previews: Whether samplers send previews unless a prompt says otherwise.
        history_lag_seconds: How long after `execution_success` the history knows the prompt. The
            real server has the same gap, of about a millisecond.
    """

    version: str
    directory: Path
    step_seconds: float = 0.05
    work: bool = True
    output_bytes: int = 0
    max_upload_bytes: int = 100 * 1024 * 1024
    need_mib: Mapping[str, int] = field(default_factory=dict)
    vram_total_mib: int = 0
    cuda_allocate: bool = False
    previews: bool = True
    history_lag_seconds: float = 0.005

    @property
    def modern(self) -> bool:
        """Whether it behaves as 0.28.1 does rather than as 0.10.0."""
        return tuple(int(part) for part in self.version.split(".")) >= (0, 26, 0)


@dataclass(order=True, slots=True)
class Item:
    """One prompt in the queue, in the order ComfyUI runs them."""

    number: int | float
    prompt_id: str
    graph: dict[str, Any] = field(compare=False)
    extra: dict[str, Any] = field(compare=False)
    outputs: list[str] = field(compare=False)

    def shown(self) -> list[Any]:
        """The five-element list of `/queue` and `/history`."""
        return [self.number, self.prompt_id, self.graph, self.extra, self.outputs]


class Queue:
    """Pending and running prompts, and what became of the finished ones."""

    def __init__(self, *, changed: Callable[[], None]) -> None:
        self.pending: list[Item] = []
        self.running: Item | None = None
        self.history: dict[str, dict[str, Any]] = {}
        self.number: float = 0
        self.arrived = asyncio.Event()
        self.interrupted = False
        self.free: dict[str, bool] = {}
        self._changed = changed

    def remaining(self) -> int:
        """Prompts not finished, the running one included."""
        return len(self.pending) + (self.running is not None)

    def put(self, item: Item) -> None:
        """Queue a prompt."""
        heapq.heappush(self.pending, item)
        self._changed()
        self.arrived.set()

    def take(self) -> Item | None:
        """Make the first pending prompt the running one."""
        if not self.pending:
            return None
        self.running = heapq.heappop(self.pending)
        self._changed()
        return self.running

    def done(self, entry: Mapping[str, Any]) -> None:
        """Move the running prompt into the history."""
        item = self.running
        if item is None:
            return
        self.running = None
        while len(self.history) >= HISTORY_LIMIT:
            self.history.pop(next(iter(self.history)))
        extra = {key: value for key, value in item.extra.items() if key != "sensitive"}
        self.history[item.prompt_id] = {
            "prompt": [item.number, item.prompt_id, item.graph, extra, item.outputs],
            **entry,
        }
        self._changed()

    def delete(self, prompt_id: str) -> bool:
        """Drop a pending prompt; it leaves no trace."""
        for index, item in enumerate(self.pending):
            if item.prompt_id == prompt_id:
                self.pending.pop(index)
                heapq.heapify(self.pending)
                self._changed()
                return True
        return False

    def clear(self) -> None:
        """Drop every pending prompt."""
        self.pending = []
        self._changed()

    def forget(self) -> None:
        """Lose queue and history, as a restart does; the running prompt stops unheard."""
        self.pending = []
        self.running = None
        self.history.clear()


class Socket(Protocol):
    """What is needed of a websocket.

    Sending to one that has gone raises starlette's `WebSocketDisconnect` when the loss shows in
    the send itself, and `RuntimeError` after that.
    """

    async def send_text(self, data: str) -> None:
        """Send a text frame."""

    async def send_bytes(self, data: bytes) -> None:
        """Send a binary frame."""


class Sockets:
    """The newest socket of each client, and the one stream of messages to them."""

    def __init__(self) -> None:
        self.sockets: dict[str, Socket] = {}
        self.metadata: set[str] = set()
        self.silenced: list[Socket] = []
        self._outgoing: asyncio.Queue[tuple[str | bytes, str | None]] = asyncio.Queue()

    def send(self, kind: str, data: Any, client_id: str | None = None) -> None:  # noqa: ANN401
        """Queue a JSON message for one client, or for all when `client_id` is None."""
        text = json.dumps({"type": kind, "data": data})
        self._outgoing.put_nowait((text, client_id))

    def send_bytes(self, frame: bytes, client_id: str | None) -> None:
        """Queue a binary frame."""
        self._outgoing.put_nowait((frame, client_id))

    def silence(self) -> None:
        """Send nothing more to the sockets of now, and keep them open."""
        self.silenced = list(self.sockets.values())

    async def flush(self) -> None:
        """Wait until everything queued so far has been written."""
        await self._outgoing.join()

    async def publish(self) -> None:
        """Write queued messages, in order, for as long as the server lives."""
        while True:
            message, client_id = await self._outgoing.get()
            try:
                for sid, socket in list(self.sockets.items()):
                    if client_id in {None, sid} and socket not in self.silenced:
                        await _write(socket, message)
            finally:
                self._outgoing.task_done()


async def _write(socket: Socket, message: str | bytes) -> None:
    try:
        if isinstance(message, str):
            await socket.send_text(message)
        else:
            await socket.send_bytes(message)
    except (WebSocketDisconnect, RuntimeError):  # it has gone; its reader ends by itself
        return


def milliseconds() -> int:
    """Now, as ComfyUI stamps its messages."""
    return int(time.time() * 1000)
