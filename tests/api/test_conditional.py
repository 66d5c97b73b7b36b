"""ETags and ranges, by the letter of RFC 9110."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.conditional import Span, matches, span_of
from app.errors import RangeNotSatisfiable

TAG = '"abc"'


def span(header: str | None, size: int = 100, if_range: str | None = None) -> Span | None:
    return span_of(header, size, if_range=if_range, tag=TAG)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-0", Span(0, 1)),
        ("bytes=0-99", Span(0, 100)),
        ("bytes=10-19", Span(10, 20)),
        ("bytes=90-1000", Span(90, 100)),
        ("bytes=50-", Span(50, 100)),
        ("bytes=-10", Span(90, 100)),
        ("bytes=-1000", Span(0, 100)),
        (" Bytes=5-6 ", Span(5, 7)),
        ("bytes= 5 - 6 ", None),
        ("bytes=6-5", None),
        ("bytes=0-1,5-6", None),
        ("items=0-1", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=0x0-0x5", None),
        ("bytes=" + "9" * 40 + "-", None),
        ("bytes=\u0661-\u0662", None),
    ],
)
def test_one_range_is_served_and_whatever_else_is_the_whole(
    header: str | None, expected: Span | None
) -> None:
    assert span(header) == expected


def test_a_header_of_blanks_is_found_wrong_at_once() -> None:
    begun = time.monotonic()
    assert span(f"bytes=1-{' ' * 60_000}x") is None
    assert not matches('W/"' * 20_000, TAG)
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_outside_the_file_cannot_be_served(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable):
        span(header)


def test_if_range_gives_the_whole_of_another_version() -> None:
    assert span("bytes=0-1", if_range=TAG) == Span(0, 2)
    for other in ('"old"', f"W/{TAG}", "Tue, 15 Nov 1994 12:45:26 GMT"):
        assert span("bytes=0-1", if_range=other) is None


@given(st.text(max_size=60), st.integers(1, 10**6))
def test_no_header_gives_bytes_that_are_not_there(text: str, size: int) -> None:
    for header in (text, f"bytes={text}"):
        try:
            found = span(header, size)
        except RangeNotSatisfiable:
            continue
        assert found is None or 0 <= found.start < found.stop <= size


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, False),
        ("*", True),
        (TAG, True),
        (f"W/{TAG}", True),
        (f'"x", W/{TAG}', True),
        ('"x,abc"', False),
        ("abc", False),
        ('""', False),
        ('"abc', False),
    ],
)
def test_if_none_match_compares_weakly(header: str | None, expected: object) -> None:
    assert matches(header, TAG) is expected
    assert matches(header, f"W/{TAG}") is expected
