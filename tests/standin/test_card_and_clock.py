"""The simulated card and the clock moved by hand."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from app.standin.clock import ManualClock
from app.standin.gpu import CardProcess, SimulatedCard


def test_the_clock_moves_only_when_told() -> None:
    clock = ManualClock()
    first = clock.now()
    assert clock.now() == first == clock()
    assert clock.advance(1.5) == clock.now()
    assert (clock.now() - first).total_seconds() == 1.5
    assert clock.seconds() == clock.now().timestamp()
    assert first.tzinfo == UTC


def test_the_clock_never_goes_back_and_knows_its_zone() -> None:
    with pytest.raises(ValueError, match="not moved back"):
        ManualClock().advance(-1)
    with pytest.raises(ValueError, match="time zone"):
        ManualClock(datetime(2026, 1, 1))  # noqa: DTZ001 - what is refused


def test_total_is_reserved_and_held_and_free() -> None:
    card = SimulatedCard(total_mib=16_000, reserved_mib=400)
    card.hold(10, 6_000)
    card.hold(11, 1_000)
    reading = card.read()
    assert reading.total_mib == 16_000
    assert reading.free_mib == 8_600
    assert reading.processes == (CardProcess(10, 6_000), CardProcess(11, 1_000))
    card.leave(10)
    card.leave(99)
    assert card.read().free_mib == 14_600


def test_a_visitor_leaves_when_its_time_is_over() -> None:
    clock = ManualClock()
    card = SimulatedCard(total_mib=16_000, clock=clock.seconds)
    card.hold(10, 5_000, seconds=30)
    assert card.read().free_mib == 11_000
    clock.advance(30)
    assert card.read().free_mib == 16_000
    assert card.read().processes == ()


def test_memory_can_be_a_function_of_time() -> None:
    clock = ManualClock()
    began = clock.seconds()
    card = SimulatedCard(total_mib=16_000, clock=clock.seconds)
    card.hold(10, lambda now: int(100 * (now - began)))
    assert card.read().processes == ()
    clock.advance(20)
    assert card.read().free_mib == 14_000
    clock.advance(1_000)
    assert card.read().free_mib == 0, "never less than nothing"


def test_a_container_hides_who_holds_the_memory() -> None:
    card = SimulatedCard(total_mib=16_000)
    card.hold(10, 5_000)
    card.pids_hidden = True
    assert card.read().processes == ()
    assert card.read().free_mib == 11_000


def test_work_shows_for_as_long_as_it_lasts() -> None:
    clock = ManualClock()
    card = SimulatedCard(total_mib=16_000, clock=clock.seconds)
    idle = card.read()
    card.work(5)
    busy = card.read()
    clock.advance(5)
    assert (idle.utilization_percent, busy.utilization_percent) == (0, 100)
    assert busy.temperature_celsius > idle.temperature_celsius
    assert card.read() == idle


def test_a_lost_card_cannot_be_read() -> None:
    card = SimulatedCard(total_mib=16_000)
    card.fallen_off = True
    with pytest.raises(OSError, match="lost"):
        card.read()
