"""W3C trace context: what is taken over and what is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.telemetry import Trace

GOOD = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_trace_is_continued_with_a_span_of_its_own() -> None:
    trace = Trace.parse(GOOD)
    assert trace is not None
    assert trace.header() == GOOD
    child = trace.child()
    assert child.trace_id == trace.trace_id
    assert child.span_id != trace.span_id
    assert child.sampled
    assert Trace.parse(child.header()) == child


def test_a_newer_version_is_read_as_far_as_it_is_known() -> None:
    assert Trace.parse("01" + GOOD[2:] + "-future") == Trace.parse(GOOD)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        GOOD[:-1],
        GOOD + "-x",
        "ff" + GOOD[2:],
        GOOD.upper(),
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01",
        GOOD.replace("-", "_"),
    ],
)
def test_an_invalid_header_is_ignored(header: str | None) -> None:
    assert Trace.parse(header) is None


@given(st.text())
def test_no_header_raises(header: str) -> None:
    found = Trace.parse(header)
    assert found is None or Trace.parse(found.header()) == found


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", True),
        (None, False),
        ("", False),
        ("a=" + "x" * 511, False),
        ("a=\u00e9", False),
    ],
)
def test_what_others_added_is_handed_on_unless_it_is_too_long(
    state: str | None, *, kept: bool
) -> None:
    trace = Trace.parse(GOOD, state)
    assert trace is not None
    expected = {"traceparent": GOOD, **({"tracestate": state} if kept else {})}
    assert trace.headers() == expected
    assert trace.child().state == trace.state


def test_new_traces_are_valid_and_differ() -> None:
    one, other = Trace.new(), Trace.new()
    assert Trace.parse(one.header()) == one
    assert one.trace_id != other.trace_id
