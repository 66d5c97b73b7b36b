"""Stored bytes as an answer: whole or one range, conditional, in bounded memory.

Or a redirect to where object storage gives them itself.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from app.api.conditional import matches, span_of
from app.api.problems import of_error
from app.errors import RangeNotSatisfiable
from app.media.store import BlobStore

FOREVER = "private, max-age=86400, immutable"
"""For content that never changes under its path."""


async def stored_answer(
    request: Request,
    store: BlobStore,
    *,
    redirect: bool,
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
        redirect: Whether a GET may be sent on to object storage. Not where If-Range ties the range
            to our ETag, which the storage does not know: that is answered here.
        blob_id: Which blob.
        size: Its length in bytes.
        sha256: Its hash, which makes the strong ETag.
        media_type: What it is.
        disposition: The Content-Disposition.

    Raises:
        NotFound: The blob is gone.
        StoreUnavailable: The object storage cannot be reached.
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
    if redirect and "if-range" not in request.headers:
        link = await store.link(blob_id)
        if link is not None:
            return Response(
                status_code=307, headers={"Location": link, "Cache-Control": "no-store"}
            )
    pieces = store.read(blob_id, start, stop)
    # Before the head is sent: what cannot be read at all is a problem, not a body cut off.
    first = await anext(pieces, b"")
    return StreamingResponse(_all(first, pieces), status, headers, media_type)


async def _all(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(rest):
        yield first
        async for piece in rest:
            yield piece
