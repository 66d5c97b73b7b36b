"""Reading multipart/form-data part by part, in bounded memory, as it arrives."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from app.errors import MalformedBody, PayloadTooLarge

_MOST_PARTS = 16
_MOST_HEADER_BYTES = 8 * 1024
_MOST_OVERHEAD_BYTES = 64 * 1024
"""Boundaries and part headers of a whole body; a real one has a few hundred bytes."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part; read `pieces` before the next part is asked for.

    Attributes:
        name: Name of the form field.
        filename: What the client calls the file; None for a part that is no file.
        pieces: The content as it arrives. Raises `MalformedBody` if the body ends in mid-part.
    """

    name: str
    filename: str | None
    pieces: AsyncGenerator[bytes]


@dataclass(frozen=True, slots=True)
class _Begin:
    name: str
    filename: str | None


class _End:
    """The end of a part."""


_Event = _Begin | bytes | _End


class _Reader:
    """Turns the parser's callbacks into a queue of events."""

    def __init__(self, boundary: bytes) -> None:
        self.events: deque[_Event] = deque()
        self.done = False
        self.content_bytes = 0
        self._parts = 0
        self._header_bytes = 0
        self._field = bytearray()
        self._value = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._part_data,
                "on_part_end": self._part_end,
                "on_end": self._end,
            },
        )

    def write(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise MalformedBody(f"The body is not multipart/form-data: {error}.") from None

    def _part_begin(self) -> None:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise MalformedBody(f"The body has more than {_MOST_PARTS} parts.")
        self._headers = {}

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > _MOST_HEADER_BYTES:
            raise MalformedBody("The headers of the parts are too long.")

    def _header_end(self) -> None:
        self._headers[bytes(self._field).lower()] = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def _headers_finished(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name, filename = options.get(b"name"), options.get(b"filename")
        if kind != b"form-data" or not name:
            raise MalformedBody("A part has no name: its Content-Disposition must give one.")
        if self._headers.get(b"content-transfer-encoding", b"binary").lower() == b"base64":
            raise MalformedBody("Parts are taken as they are: leave Content-Transfer-Encoding out.")
        self.events.append(
            _Begin(
                name.decode("utf-8", "replace"),
                filename.decode("utf-8", "replace") if filename is not None else None,
            )
        )

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self.content_bytes += end - start
        self.events.append(data[start:end])

    def _part_end(self) -> None:
        self.events.append(_End())

    def _end(self) -> None:
        self.done = True


async def parts_of(request: Request) -> AsyncGenerator[Part]:
    """The parts of a body, in their order. What is left of a part is skipped.

    Raises:
        MalformedBody: It is not multipart/form-data, or is cut off.
        PayloadTooLarge: It is mostly boundaries and headers.
    """
    options: dict[Any, bytes]
    _, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= 70:  # RFC 2046, section 5.1.1
        raise MalformedBody("The Content-Type of a multipart body must name its boundary.")
    events = _events(request, _Reader(boundary))
    try:
        async for event in events:
            if isinstance(event, _Begin):
                part = Part(event.name, event.filename, _pieces(event.name, events))
                yield part
                async for _ in part.pieces:
                    pass
    finally:
        await events.aclose()


async def _events(request: Request, reader: _Reader) -> AsyncGenerator[_Event]:
    received = 0
    async for data in request.stream():
        received += len(data)
        reader.write(data)
        if received - reader.content_bytes > _MOST_OVERHEAD_BYTES:
            raise PayloadTooLarge("The body has more boundaries and headers than content allows.")
        while reader.events:
            yield reader.events.popleft()
    if not reader.done:
        raise MalformedBody("The multipart body is cut off: its last boundary is missing.")


async def _pieces(name: str, events: AsyncIterator[_Event]) -> AsyncGenerator[bytes]:
    async for event in events:
        if isinstance(event, _End):
            return
        if isinstance(event, bytes):
            yield event
    raise MalformedBody(f"The part {name[:64]!r} is cut off.")
