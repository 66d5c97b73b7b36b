"""Stored bytes as an answer: whole or one range, conditional, in bounded memory.

Or a redirect to where object storage gives them itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from app.api.conditional import Span, matches, span_of
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
    headers = {"Cache-Control": FOREVER, "Content-Disposition": disposition}
    span = _answered(request, size, f'"{sha256}"', headers)
    if isinstance(span, Response):
        return span
    if request.method == "HEAD":
        return Response(headers=headers, media_type=media_type)
    if redirect and "if-range" not in request.headers:
        link = await store.link(blob_id)
        if link is not None:
            return Response(
                status_code=307, headers={"Location": link, "Cache-Control": "no-store"}
            )
    pieces = store.read(blob_id, span.start, span.stop)
    # Before the head is sent: what cannot be read at all is a problem, not a body cut off.
    first = await anext(pieces, b"")
    return StreamingResponse(_all(first, pieces), _status(headers), headers, media_type)


async def _all(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(rest):
        yield first
        async for piece in rest:
            yield piece


def document_answer(request: Request, document: Mapping[str, Any], *, disposition: str) -> Response:
    """Answer with a JSON document as with a stored file; it may be another one later.

    Args:
        request: Its `Range`, `If-Range` and `If-None-Match` count.
        document: What is sent.
        disposition: The Content-Disposition.
    """
    data = json.dumps(document).encode()
    headers = {"Cache-Control": "private, no-cache", "Content-Disposition": disposition}
    span = _answered(request, len(data), f'"{hashlib.sha256(data).hexdigest()}"', headers)
    if isinstance(span, Response):
        return span
    piece = data[span.start : span.stop]
    return Response(piece, _status(headers), headers, "application/json")


def _answered(request: Request, size: int, tag: str, headers: dict[str, str]) -> Span | Response:
    """The bytes that are to be sent, or the answer where none are. Completes the headers."""
    headers.update({"ETag": tag, "Accept-Ranges": "bytes"})
    if matches(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    # A range means something with GET alone (RFC 9110, section 14.2).
    range_ = request.headers.get("range") if request.method == "GET" else None
    try:
        span = span_of(range_, size, if_range=request.headers.get("if-range"), tag=tag)
    except RangeNotSatisfiable as error:
        return of_error(error, headers={"Content-Range": f"bytes */{size}"})
    if span is not None:
        headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{size}"
    span = span or Span(0, size)
    headers["Content-Length"] = str(span.length)
    return span


def _status(headers: Mapping[str, str]) -> int:
    return 206 if "Content-Range" in headers else 200
