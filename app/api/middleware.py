"""Plain ASGI middleware: security headers, limits on bodies, and the last catch of errors."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection

import structlog
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import problems
from app.errors import PayloadTooLarge

log = structlog.get_logger("gateway.http")

SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
"""On every answer; an endpoint that gives one of them itself is left as it is."""


_SECURITY_PAIRS = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]

SLOWEST_BYTES = 500
"""Bytes a second below which a body only seems to arrive."""


class SecurityHeaders:
    """Puts the security headers on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"]
                given = {name for name, _ in headers}
                added = [pair for pair in _SECURITY_PAIRS if pair[0] not in given]
                message = {**message, "headers": [*headers, *added]}
            await send(message)

        await self._app(scope, receive, with_headers)


class LastCatch:
    """Answers with a bare 500 what nobody foresaw; the log has the rest."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            log.exception("request failed", path=scope.get("path"))
            if scope["type"] != "http" or started:
                raise
            request_id = scope.get("state", {}).get("request_id")
            answer = problems.problem(
                500,
                "internal-error",
                "The gateway failed",
                "Something went wrong in the gateway; its log has it under the request id.",
                request_id=request_id,
            )
            await answer(scope, receive, send)


class BodyGuard:
    """Bounds bodies: their declared size at once, and the time that they may take to arrive.

    How much of an undeclared body is taken is decided where it is read. The time that the
    application itself takes between two pieces does not count.

    Args:
        app: The application.
        most_bytes: Largest declared body of most calls.
        file_bytes: Largest declared body of a call that takes files.
        file_paths: The paths of those calls.
        idle_seconds: Longest silence while a body arrives; and longest wait in all for a body
            that comes at less than `SLOWEST_BYTES` a second.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        most_bytes: int,
        file_bytes: int,
        file_paths: Collection[str],
        idle_seconds: float,
    ) -> None:
        self._app = app
        self._most_bytes = most_bytes
        self._file_bytes = file_bytes
        self._file_paths = frozenset(file_paths)
        self._idle_seconds = idle_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        size = int(declared) if declared.isdecimal() and len(declared) < 20 else math.inf
        takes_files = scope["path"] in self._file_paths
        most = self._file_bytes if takes_files else self._most_bytes
        if declared and size > most:
            error = PayloadTooLarge(f"This call takes a body of at most {most:,} bytes.")
            await problems.of_error(error)(scope, receive, send)
            return
        arriving, waited, received = True, 0.0, 0
        clock = asyncio.get_running_loop().time

        async def guarded() -> Message:
            nonlocal arriving, waited, received
            if not arriving:
                return await receive()  # waiting for the client to go away may take for ever
            left = self._idle_seconds + received / SLOWEST_BYTES - waited
            begun = clock()
            try:
                async with asyncio.timeout(min(self._idle_seconds, left)):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408,
                    f"The body stood still for {self._idle_seconds:g} seconds, or came at less "
                    f"than {SLOWEST_BYTES} bytes a second.",
                ) from None
            waited += clock() - begun
            received += len(message.get("body", b""))
            arriving = message["type"] == "http.request" and message.get("more_body", False)
            return message

        await self._app(scope, guarded, send)
