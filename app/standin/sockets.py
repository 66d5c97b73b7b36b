"""`/ws`: one socket for each client id, the newest one counting."""

from __future__ import annotations

import contextlib
import json
import uuid
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from app.standin.recorded import recorded
from app.standin.state import Options, Queue, Sockets
from app.standin.worker import Worker

GOING_AWAY = 1001


class SocketEndpoint:
    """Opens, keeps and drops sockets."""

    worker: Worker

    def __init__(self, *, options: Options, sockets: Sockets, queue: Queue) -> None:
        self._options = options
        self._sockets = sockets
        self._queue = queue
        self._open: set[WebSocket] = set()
        features = recorded(options.version, "server")["features"]
        self._features = {**features, "max_upload_size": options.max_upload_bytes}

    async def serve(self, socket: WebSocket) -> None:
        """Serve one socket until it closes."""
        sid = socket.query_params.get("clientId") or uuid.uuid4().hex
        await socket.accept()
        self._open.add(socket)
        self._sockets.metadata.discard(sid)
        try:
            await self._greet(socket, sid)
            await self._listen(socket, sid)
        except (WebSocketDisconnect, RuntimeError):
            return  # it has gone, which is what the next lines are for
        finally:
            self._open.discard(socket)
            # As in ComfyUI, an old socket that closes takes a newer one of its id off the list.
            self._sockets.sockets.pop(sid, None)
            self._sockets.metadata.discard(sid)

    async def _greet(self, socket: WebSocket, sid: str) -> None:
        # First in line, before anything queued for all: the real server's first frame is this.
        info = {"exec_info": {"queue_remaining": self._queue.remaining()}}
        await _send(socket, "status", {"status": info, "sid": sid})
        self._sockets.sockets[sid] = socket
        node = self.worker.current_node
        if self.worker.current_client == sid and node is not None:
            self._sockets.send("executing", {"node": node}, sid)

    async def _listen(self, socket: WebSocket, sid: str) -> None:
        first = True
        async for text in socket.iter_text():
            message = json.loads(text)
            if first and message.get("type") == "feature_flags":
                if message.get("data", {}).get("supports_preview_metadata"):
                    self._sockets.metadata.add(sid)
                self._sockets.send("feature_flags", self._features, sid)
            first = False

    async def drop_all(self) -> None:
        """Close every socket, as a proxy between that restarts would."""
        await self._sockets.flush()
        for socket in list(self._open):
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # it went by itself
                await socket.close(GOING_AWAY)


async def _send(socket: WebSocket, kind: str, data: Any) -> None:  # noqa: ANN401 - JSON
    await socket.send_text(json.dumps({"type": kind, "data": data}))
