"""What stands before every route: size limit, origin checks, plain-text failures, slow answers."""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.standin.answers import unrouted
from app.standin.misbehave import Misbehavior
from app.standin.state import Options

BROKEN = "500 Internal Server Error\n\nServer got itself in trouble"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
HANG_UP = "standin.hang_up"

_log = logging.getLogger(__name__)


class TooLarge(Exception):
    """A body is over the limit."""


class Front:
    """Pure ASGI, because an answer may have to be lost with the connection."""

    def __init__(self, inner: ASGIApp, *, options: Options, misbehavior: Misbehavior) -> None:
        self._inner = inner
        self._options = options
        self._misbehavior = misbehavior

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if self._foreign(headers):
            await Response(status_code=403)(scope, receive, send)
            return
        if not scope["path"].startswith("/standin/"):
            slow = self._misbehavior.take("slow")
            if slow is not None:
                await asyncio.sleep(slow.seconds or 1.0)
        await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._options.max_upload_bytes
        seen = 0
        started = False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise TooLarge
            return message

        async def watched(message: Message) -> None:
            nonlocal started
            if scope.get(HANG_UP):
                _transport(receive).abort()
                return
            started = started or message["type"] == "http.response.start"
            await send(message)

        # With an `app` in the scope Starlette raises what it cannot route instead of wording it.
        scope["app"] = self
        try:
            await self._inner(scope, counted, watched)
        except HTTPException as refused:
            await unrouted(refused.status_code)(scope, receive, send)
        except TooLarge:
            text = f"Maximum request body size {limit} exceeded."
            await PlainTextResponse(text, 413)(scope, receive, send)
        except Exception:  # the real server answers whatever it did not expect just so
            if started:
                raise
            _log.exception("unexpected body or query at %s", scope["path"])
            await PlainTextResponse(BROKEN, 500)(scope, receive, send)

    def _foreign(self, headers: Headers) -> bool:
        if self._options.modern and headers.get("sec-fetch-site") == "cross-site":
            return True
        origin, host = headers.get("origin"), headers.get("host")
        if not origin or not host:
            return False
        wanted = urlsplit(f"//{host}")
        if wanted.hostname not in LOOPBACK:
            return False
        return urlsplit(origin).netloc != wanted.netloc


def _transport(receive: Receive) -> Any:  # noqa: ANN401 - uvicorn's request cycle
    return receive.__self__.transport  # type: ignore[attr-defined]  # the bound method of uvicorn


def hang_up(scope: Scope) -> None:
    """Make the answer of this request get lost with its connection."""
    scope[HANG_UP] = True
