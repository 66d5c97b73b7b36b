"""ComfyUI's websocket: typed messages until it is lost. Who listens reconnects by itself."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from app.comfy.messages import Message, parse_binary, parse_text
from app.telemetry import trace_headers

_OPEN_SECONDS = 5.0
_PING_SECONDS = 20.0
_LARGEST_FRAME = 64 * 1024 * 1024

_HELLO = json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
"""As the first message it makes the server say for which prompt a preview is."""


class StreamLost(Exception):
    """The socket is gone. ComfyUI repeats nothing that was missed: ask it over HTTP."""


class EventStream:
    """The messages of one socket, in order, the unknown ones left out."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Give messages until the socket is lost.

        Raises:
            StreamLost: The socket is gone.
        """
        try:
            async for frame in self._socket:
                message = parse_text(frame) if isinstance(frame, str) else parse_binary(frame)
                if message is not None:
                    yield message
        except ConnectionClosed as error:
            raise StreamLost("ComfyUI's socket broke.") from error
        raise StreamLost("ComfyUI closed the socket.")


@asynccontextmanager
async def open_stream(base_url: str, client_id: str) -> AsyncGenerator[EventStream]:
    """Open the socket of a client id.

    Raises:
        StreamLost: It cannot be opened, or broke.
    """
    url = f"ws{base_url.removeprefix('http')}/ws?clientId={quote(client_id)}"
    try:
        async with connect(
            url,
            open_timeout=_OPEN_SECONDS,
            close_timeout=1.0,
            ping_interval=_PING_SECONDS,
            ping_timeout=_PING_SECONDS,
            max_size=_LARGEST_FRAME,
            proxy=None,
            additional_headers=trace_headers(),
        ) as socket:
            await socket.send(_HELLO)
            yield EventStream(socket)
    except (OSError, TimeoutError, WebSocketException) as error:
        raise StreamLost(f"ComfyUI's socket cannot be opened: {type(error).__name__}") from error
