"""One TCP connection: bounds on what a client may send before there is a request to answer.

Uvicorn reads heads of any length for any time, takes trailers for headers, and refuses in plain
text. What comes after the head is bounded by `middleware.BodyGuard`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.api.middleware import SECURITY_HEADERS
from app.api.problems import HTTP_PROBLEMS, MALFORMED_REQUEST, problem

HEAD_BYTES = 64 * 1024
"""Longest head, chunk header or trailer; what one read brings beyond it is not counted."""

HEAD_SECONDS = 30.0
"""Longest time from the first byte of a head, or from the connection, to the head's end."""

_REST_SECONDS = 10.0
_REST_BYTES = 1 << 20
"""What is left of a body whose request was answered already is read on, so that the client gets
to the answer, for as long as so much of it comes in each `_REST_SECONDS`."""


class Connection(HttpToolsProtocol):
    """Uvicorn's connection, bounded. For `uvicorn.Config(http=Connection)`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's own
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._useless_bytes = 0
        self._rest_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    # --- what arrives --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._set_timer(HEAD_SECONDS, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._set_timer(0, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; too many that bring neither a head nor content end the connection."""
        self._useless_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._useless_bytes > HEAD_BYTES:
            self._refuse(431, f"The head of a request may have {HEAD_BYTES:,} bytes.")
        elif self._in_head and self._useless_bytes and self._timer is None:
            self._set_timer(HEAD_SECONDS, self._late)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, but not what stands behind a chunked body (RFC 9110, section 6.5.1)."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin the request. One that two servers could take for two hosts is none."""
        self._set_timer(0, None)
        self._in_head = False
        self._useless_bytes = 0
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            raise ValueError("a request names one host")  # the parser makes it a 400
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take content."""
        self._useless_bytes = 0
        self._rest_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request; what comes now is the next one's head."""
        self._in_head = True
        self._useless_bytes = 0
        self._set_timer(0, None)
        super().on_message_complete()

    # --- what is answered ----------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """Wait for the next head, or for the rest of a body that nobody wants."""
        super().on_response_complete()
        if not self._in_head and self.cycle.response_complete:
            self._rest_bytes = 0
            self._set_timer(_REST_SECONDS, self._look_at_rest)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, as a problem like every other."""
        self._refuse(400, msg)

    def _refuse(self, status: int, detail: str) -> None:
        cycle: RequestResponseCycle | None = self.cycle  # none before the first request
        if cycle is None or cycle.response_complete:
            code, title = MALFORMED_REQUEST if status == 400 else HTTP_PROBLEMS[status]
            self.transport.write(_as_bytes(problem(status, code, title, detail)))
        self.transport.close()

    # --- time ----------------------------------------------------------------------------------

    def _late(self) -> None:
        self._timer = None
        if not self._useless_bytes:
            self.transport.close()  # opened in advance and never used, as browsers do
        elif not self.transport.is_closing():
            self._refuse(408, f"The head of the request took more than {HEAD_SECONDS:g} seconds.")

    def _look_at_rest(self) -> None:
        if self._rest_bytes < _REST_BYTES:
            self.transport.close()
            return
        self._rest_bytes = 0
        self._set_timer(_REST_SECONDS, self._look_at_rest)

    def _set_timer(self, seconds: float, then: Callable[[], None] | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, then) if then is not None else None


def _as_bytes(answer: Response) -> bytes:
    headers = {**SECURITY_HEADERS, "connection": "close"}
    lines = [f"HTTP/1.1 {answer.status_code} ".encode()]
    lines += [b"%s: %s" % pair for pair in answer.raw_headers]
    lines += [f"{name}: {value}".encode() for name, value in headers.items()]
    return b"\r\n".join(lines) + b"\r\n\r\n" + bytes(answer.body)
