"""Conditional and partial answers: ETags and byte ranges (RFC 9110). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from app.errors import RangeNotSatisfiable

_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
_ONE_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))", re.IGNORECASE)
"""No blanks inside, as RFC 9110 has it: two runs of them side by side would also take a header of
32 KB a minute to be found wrong."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes from `start` up to but not including `stop`."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """How many bytes."""
        return self.stop - self.start


def matches(header: str | None, tag: str) -> bool:
    """Whether an If-None-Match header names a tag. Weak comparison, as it is to be."""
    if header is None:
        return False
    if header.strip() == "*":
        return True
    return any(_opaque(one) == _opaque(tag) for one in _TAG.findall(header))


def span_of(header: str | None, size: int, *, if_range: str | None, tag: str) -> Span | None:
    """The bytes that a Range header asks for; None for the whole.

    A header that is not understood, asks for several ranges, or is tied by If-Range to another
    version is ignored, as RFC 9110 allows or demands.

    Args:
        header: The Range header.
        size: Length of the whole.
        if_range: The If-Range header.
        tag: The strong ETag of what there is.

    Raises:
        RangeNotSatisfiable: It lies outside the whole.
    """
    if header is None or (if_range is not None and if_range.strip() != tag):
        return None
    found = _ONE_RANGE.fullmatch(header.strip())
    if found is None:
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        span = Span(max(size - int(suffix), 0), size)
    else:
        if last is not None and int(last) < int(first):
            return None  # invalid, so to be ignored
        span = Span(int(first), size if last is None else min(int(last) + 1, size))
    if span.length <= 0:
        raise RangeNotSatisfiable(f"The file has {size:,} bytes, from 0 to {size - 1:,}.")
    return span


def _opaque(tag: str) -> str:
    return tag.removeprefix("W/")
