"""The peak of one attempt, its timeline, and what sampling costs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from itertools import pairwise

import pytest

from app.gpu.card import CardUnreadable, Reading
from app.gpu.engine_memory import EngineMemory, engine_memory
from app.gpu.sampler import PeakSampler, Timeline
from app.gpu.simulated import SimulatedCard

COMFY = 42
FOREIGN = 666


@pytest.fixture
def card() -> SimulatedCard:
    card = SimulatedCard(total_mib=24_000, reserved_mib=400)
    card.hold(COMFY, 600)
    return card


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - another thread makes it true
            await asyncio.sleep(0.005)


async def seen(sampler: PeakSampler) -> None:
    """Wait until what was just set has been sampled."""
    target = sampler.samples + 2
    await until(lambda: sampler.samples >= target)


def sampler(card: SimulatedCard, engine: EngineMemory) -> PeakSampler:
    return PeakSampler(card=card, engine=engine, interval_seconds=0.005)


async def test_the_peak_of_the_engines_own_process_is_measured(card: SimulatedCard) -> None:
    engine = engine_memory(card.read(), pids=[COMFY])
    async with sampler(card, engine) as peak:
        for mib in (5_000, 15_500, 9_000):
            card.hold(COMFY, mib)
            await seen(peak)
        card.hold(FOREIGN, 8_000)
        await seen(peak)
    assert (peak.peak_mib, peak.source) == (15_500, "process")


async def test_a_hidden_process_is_measured_by_the_change_of_the_card(card: SimulatedCard) -> None:
    card.pids_hidden = True
    card.hold(FOREIGN, 4_000)
    card.hold(COMFY, 5_600)
    engine = engine_memory(card.read(), torch_mib=5_200)
    async with sampler(card, engine) as peak:
        card.hold(COMFY, 15_500)
        await seen(peak)
        card.hold(COMFY, 900)
        await seen(peak)
    assert (peak.peak_mib, peak.source) == (15_500, "device")


async def test_a_look_from_before_the_attempt_is_as_good(card: SimulatedCard) -> None:
    card.pids_hidden = True
    engine = engine_memory(card.read(), torch_mib=200)
    card.hold(COMFY, 12_000)
    async with sampler(card, engine) as peak:
        await seen(peak)
    assert peak.peak_mib == 12_000


async def test_where_it_is_not_known_what_it_held_nothing_is_measured(card: SimulatedCard) -> None:
    card.pids_hidden = True
    async with sampler(card, engine_memory(card.read())) as peak:
        await seen(peak)
    assert (peak.peak_mib, peak.timeline) == (None, [])


async def test_what_happened_since_the_last_tick_is_seen_at_the_end(card: SimulatedCard) -> None:
    engine = engine_memory(card.read(), pids=[COMFY])
    async with PeakSampler(card=card, engine=engine, interval_seconds=60) as peak:
        await until(lambda: peak.samples == 1)
        card.hold(COMFY, 9_000)
    assert (peak.peak_mib, peak.samples) == (9_000, 2)


async def test_a_card_that_fails_and_recovers_is_sampled_on(card: SimulatedCard) -> None:
    engine = engine_memory(card.read(), pids=[COMFY])
    async with sampler(card, engine) as peak:
        await seen(peak)
        card.problem = CardUnreadable("lost", advice="none")
        await until(lambda: peak.unread > 2)
        card.problem = None
        card.hold(COMFY, 7_000)
        await seen(peak)
    assert peak.peak_mib == 7_000


async def test_an_error_in_the_attempt_ends_the_sampling_too(card: SimulatedCard) -> None:
    engine = engine_memory(card.read(), pids=[COMFY])

    async def attempt() -> None:
        async with sampler(card, engine) as peak:
            await seen(peak)
            raise RuntimeError("the attempt failed")

    with pytest.raises(RuntimeError, match="the attempt failed"):
        await attempt()
    assert not any(thread.name == "vram-sampler" for thread in threading.enumerate())


async def test_sampling_costs_less_than_a_hundredth_of_a_core(card: SimulatedCard) -> None:
    engine = engine_memory(card.read(), pids=[COMFY])
    async with PeakSampler(card=card, engine=engine) as peak:
        await until(lambda: peak.samples >= 10)
    assert peak.cpu_seconds / peak.wall_seconds < 0.01


async def test_a_card_that_is_dear_to_read_is_read_less_often() -> None:
    class Dear(SimulatedCard):
        def read(self, *, light: bool = False) -> Reading:
            for _ in range(100_000):  # CPU time, which waiting would not be
                pass
            return super().read(light=light)

    card = Dear(total_mib=24_000)
    async with PeakSampler(
        card=card, engine=EngineMemory(0, "pid", frozenset({COMFY})), interval_seconds=0.001
    ) as peak:
        await until(lambda: peak.samples >= 3)
        # Three samples at 0.001 s would have taken 0.002 s.
        assert peak.wall_seconds > peak.cpu_seconds * 30


# --- timeline --------------------------------------------------------------------------------


def test_a_short_run_keeps_every_sample() -> None:
    timeline = Timeline(most=10)
    for number in range(10):
        timeline.add(number / 10, number)
    assert timeline.points == [(number / 10, number) for number in range(10)]


@pytest.mark.parametrize("samples", [11, 12, 19, 21, 100, 36_000])
def test_a_long_run_stays_bounded_and_keeps_its_peak_and_order(samples: int) -> None:
    timeline = Timeline(most=10)
    peak_at = samples * 2 // 3
    for number in range(samples):
        timeline.add(number / 10, 9_999 if number == peak_at else 100)
    points = timeline.points
    assert 5 <= len(points) <= 10
    assert points[0][0] == 0.0
    assert [at for at, _ in points] == sorted(at for at, _ in points)
    before = max(at for at, mib in points if mib == 9_999)
    assert sum(mib == 9_999 for _, mib in points) == 1
    following = [at for at, _ in points if at > before]
    assert before <= peak_at / 10 + 0.01
    assert not following or peak_at / 10 < following[0] + 0.01


def test_the_points_of_a_long_run_are_evenly_spread() -> None:
    timeline = Timeline(most=600)
    for number in range(36_000):  # an hour at 10 Hz
        timeline.add(number / 10, number)
    times = [at for at, _ in timeline.points]
    gaps = {round(later - earlier, 2) for earlier, later in pairwise(times)}
    assert len(gaps) == 1
