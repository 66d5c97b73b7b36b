"""Stored bytes as an answer: whole or one range, conditional, in bounded memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from app.api.conditional import matches, span_of
from app.api.problems import of_error
from app.errors import RangeNotSatisfiable
from app.media.store import BlobStore

FOREVER = "private, max-age=86400, immutable"
"""For content that never changes under its path."""


def stored_answer(
    request: Request,
    store: BlobStore,
    *,
    blob_id: int,
    size: int,
    sha256: str | None,
    media_type: str,
    disposition: str,
) -> Response:
    """Answer with a blob, or with the one range that the request asks for.

    Args:
        request: Its `Range`, `If-Range` and `If-None-Match` count.
        store: Where the bytes are.
        blob_id: Which blob.
        size: Its length in bytes.
        sha256: Its hash, which makes the strong ETag.
        media_type: What it is.
        disposition: The Content-Disposition.
    """
    tag = f'"{sha256}"'
    headers: dict[str, str] = {
        "ETag": tag,
        "Accept-Ranges": "bytes",
        "Cache-Control": FOREVER,
        "Content-Disposition": disposition,
    }
    if matches(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    range_ = request.headers.get("range")
    try:
        span = span_of(range_, size, if_range=request.headers.get("if-range"), tag=tag)
    except RangeNotSatisfiable as error:
        return of_error(error, headers={"Content-Range": f"bytes */{size}"})
    start, stop, status = 0, size, 200
    if span is not None:
        start, stop, status = span.start, span.stop, 206
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    headers["Content-Length"] = str(stop - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    return _streamed(store, blob_id, start, stop, status, headers, media_type)


def _streamed(  # noqa: PLR0917 - one caller
    store: BlobStore,
    blob_id: int,
    start: int,
    stop: int,
    status: int,
    headers: Mapping[str, str],
    media_type: str,
) -> Response:
    async def pieces() -> AsyncGenerator[bytes]:
        async with aclosing(store.read(blob_id, start, stop)) as found:
            async for piece in found:
                yield piece

    return StreamingResponse(pieces(), status, headers, media_type)
