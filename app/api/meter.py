"""Counting what a caller uploads against its quota."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable

from fastapi import Request

from app.access.limits import Limiter
from app.access.scopes import Caller
from app.errors import PayloadTooLarge

_STEP_BYTES = 1 << 20


class UploadMeter:
    """Counts a declared body at once, and an undeclared one as it arrives."""

    def __init__(
        self, request: Request, *, limiter: Limiter, caller: Caller, most_bytes: int
    ) -> None:
        """Count what the request declares.

        Raises:
            RateLimited: It is more than the caller has left.
            PayloadTooLarge: It is more than any call may send.
        """
        self._limiter = limiter
        self._caller = caller
        declared = request.headers.get("content-length")
        self._declared = declared is not None
        if declared is not None:
            if int(declared) > most_bytes:
                raise PayloadTooLarge(f"The body is larger than the {most_bytes:,} bytes taken.")
            limiter.upload(caller, int(declared))

    async def counted(self, pieces: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
        """The same pieces, counted.

        Raises:
            RateLimited: They are more than the caller has left.
        """
        uncounted = 0
        async for piece in pieces:
            uncounted += 0 if self._declared else len(piece)
            if uncounted >= _STEP_BYTES:
                self._limiter.upload(self._caller, uncounted)
                uncounted = 0
            yield piece
        self._limiter.upload(self._caller, uncounted)
