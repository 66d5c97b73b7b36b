"""A file sent as aiohttp, ComfyUI's own server, sends one."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import AsyncIterator, Mapping
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path

import anyio
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

CHUNK = 1 << 20
RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def file_answer(request: Request, path: Path, extra: Mapping[str, str]) -> Response:
    """A file, a range of it, or word that the client has it already.

    Several ranges and a start past the end are 416, as recorded.
    """
    stat = path.stat()
    size = stat.st_size
    etag = f'"{stat.st_mtime_ns:x}-{size:x}"'
    content_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    headers = {**extra, "Content-Type": content_type}
    told = {
        "Etag": etag,
        "Last-Modified": formatdate(stat.st_mtime, usegmt=True),
        "Accept-Ranges": "bytes",
    }
    if _unchanged(request, etag, stat.st_mtime):
        return Response(status_code=304, headers=told)
    wanted = request.headers.get("range")
    start, end, status = 0, size, 200
    if wanted is not None and request.headers.get("if-range", etag) == etag:
        span = _span(wanted, size)
        if span is None:
            headers["Content-Range"] = f"bytes */{size}"
            return Response(status_code=416, headers=headers)
        start, end = span
        status = 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    headers |= {**told, "Content-Length": str(end - start)}
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return StreamingResponse(_read(path, start, end), status_code=status, headers=headers)


def _unchanged(request: Request, etag: str, modified: float) -> bool:
    named = request.headers.get("if-none-match")
    if named is not None:
        return named == "*" or etag in {part.strip() for part in named.split(",")}
    since = request.headers.get("if-modified-since")
    if since is None:
        return False
    try:
        return int(modified) <= parsedate_to_datetime(since).timestamp()
    except ValueError:
        return False


def _span(wanted: str, size: int) -> tuple[int, int] | None:
    match = RANGE.fullmatch(wanted)
    if match is None or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    start = int(first)
    end = min(int(last) + 1, size) if last else size
    return (start, end) if start < end else None


async def _read(path: Path, start: int, end: int) -> AsyncIterator[bytes]:
    async with await anyio.open_file(path, "rb") as file:
        await file.seek(start)
        while start < end:
            data = await file.read(min(CHUNK, end - start))
            if not data:
                return
            start += len(data)
            yield data
