"""The monitor: readings in threads, their age, failures, and what is remembered between looks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from app.gpu.admission import Admit, Wait, decide
from app.gpu.card import CardUnreadable, Reading
from app.gpu.monitor import GpuMonitor
from app.gpu.simulated import SimulatedCard

COMFY = 42
FOREIGN = 666


class Ticks:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def card() -> SimulatedCard:
    return SimulatedCard(total_mib=24_000, reserved_mib=400)


@pytest.fixture
def monitor(card: SimulatedCard, ticks: Ticks) -> GpuMonitor:
    return GpuMonitor(card=card, margin_mib=500, monotonic=ticks)


async def test_a_reading_is_kept_with_its_age(monitor: GpuMonitor, ticks: Ticks) -> None:
    assert (monitor.last, monitor.age_seconds, monitor.capacity_mib) == (None, None, None)
    assert "not read yet" in monitor.verdict
    reading = await monitor.read()
    ticks.time += 7
    assert monitor.last is reading
    assert (monitor.age_seconds, monitor.capacity_mib) == (7, 23_100)
    assert monitor.verdict == "on"


async def test_a_fresh_reading_is_not_made_again(
    monitor: GpuMonitor, card: SimulatedCard, ticks: Ticks
) -> None:
    await monitor.read()
    ticks.time += 1
    await monitor.read(max_age_seconds=1.5)
    assert card.reads == 1
    await monitor.read(max_age_seconds=0.5)
    assert card.reads == 2


async def test_an_unreadable_card_is_a_problem_until_it_is_read_again(
    monitor: GpuMonitor, card: SimulatedCard
) -> None:
    await monitor.read()
    card.problem = CardUnreadable("The GPU is lost.", advice="See dmesg.")
    with pytest.raises(CardUnreadable):
        await monitor.read(max_age_seconds=0)
    assert monitor.verdict == "nothing is admitted: The GPU is lost. See dmesg."
    with pytest.raises(CardUnreadable):  # an older good reading does not hide it
        await monitor.read(max_age_seconds=3_600)
    card.problem = None
    await monitor.read()
    assert (monitor.problem, monitor.verdict) == (None, "on")


class HangingCard(SimulatedCard):
    """Its driver does not answer until it is told to."""

    def __init__(self) -> None:
        super().__init__(total_mib=24_000)
        self.answer = threading.Event()

    def read(self, *, light: bool = False) -> Reading:
        self.answer.wait()
        return super().read(light=light)


@pytest.fixture
def hanging() -> Iterator[HangingCard]:
    card = HangingCard()
    yield card
    card.answer.set()


async def test_a_driver_that_hangs_is_unreadable_and_not_asked_twice_at_once(
    hanging: HangingCard,
) -> None:
    monitor = GpuMonitor(card=hanging, margin_mib=500, timeout_seconds=0.02)
    for _ in range(3):
        with pytest.raises(CardUnreadable, match="has not answered"):
            await monitor.read()
    waiting = [one for one in threading.enumerate() if one.name == "card-read"]
    assert len(waiting) == 1
    hanging.answer.set()
    waiting[0].join()
    assert await monitor.read() is not None
    assert monitor.problem is None


async def test_reads_at_the_same_moment_share_one(hanging: HangingCard) -> None:
    monitor = GpuMonitor(card=hanging, margin_mib=500)
    reads = [asyncio.create_task(monitor.read()) for _ in range(10)]
    await asyncio.sleep(0)
    hanging.answer.set()
    await asyncio.gather(*reads)
    assert hanging.reads == 1


async def test_a_caller_that_gives_up_takes_nothing_from_the_others(hanging: HangingCard) -> None:
    monitor = GpuMonitor(card=hanging, margin_mib=500)
    first, second = (asyncio.create_task(monitor.read()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    hanging.answer.set()
    assert await second is not None


async def test_an_unexpected_error_of_a_card_reaches_the_caller() -> None:
    class Broken(SimulatedCard):
        def read(self, *, light: bool = False) -> Reading:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await GpuMonitor(card=Broken(total_mib=1), margin_mib=0).read()


async def test_with_admission_off_there_is_nothing_to_read_and_it_says_so() -> None:
    monitor = GpuMonitor(card=None, margin_mib=500)
    assert not monitor.enabled
    assert await monitor.read() is None
    assert await monitor.look(loaded=None, running_need_mib=None) is None
    assert monitor.verdict.startswith("off")
    assert monitor.capacity_mib is None


# --- looks -----------------------------------------------------------------------------------


async def test_a_foreign_process_must_stay_away_before_a_job_is_let_in(
    monitor: GpuMonitor, card: SimulatedCard, ticks: Ticks
) -> None:
    async def decided() -> type:
        seen = await monitor.look(loaded=None, running_need_mib=None, pids=[COMFY])
        assert seen is not None
        return type(decide(20_000, "a", seen))

    card.hold(COMFY, 600)
    card.hold(FOREIGN, 10_000)
    assert await decided() is Wait
    card.exit(FOREIGN)
    waited = 0.0
    while await decided() is Wait:
        ticks.time += 0.25
        waited += 0.25
    assert 0.5 <= waited < 2.0


async def test_the_engines_own_loading_and_freeing_delays_nothing(
    monitor: GpuMonitor, card: SimulatedCard, ticks: Ticks
) -> None:
    for held in (600, 20_000, 600, 20_000):
        card.hold(COMFY, held)
        seen = await monitor.look(loaded="a", running_need_mib=None, pids=[COMFY])
        assert seen is not None
        assert isinstance(decide(23_100, "a", seen), Admit)
        ticks.time += 0.01


async def test_the_context_is_learned_while_idle_only(
    monitor: GpuMonitor, card: SimulatedCard
) -> None:
    card.pids_hidden = True
    card.hold(COMFY, 619)
    await monitor.look(loaded=None, running_need_mib=None, torch_mib=0)
    assert not monitor.offset.learned
    await monitor.look(loaded=None, running_need_mib=None, torch_mib=0, idle=True)
    assert monitor.offset.mib == 619
    card.hold(COMFY, 9_619)
    await monitor.look(loaded="a", running_need_mib=9_700, torch_mib=9_000)
    assert monitor.engine is not None
    assert monitor.engine.held_mib == 9_619


async def test_what_is_shown_is_of_one_moment_and_decides_nothing(
    monitor: GpuMonitor, card: SimulatedCard
) -> None:
    card.hold(FOREIGN, 3_000)
    card.hold(COMFY, 400)
    await monitor.look(loaded=None, running_need_mib=None, torch_mib=0)
    decided = monitor.engine
    card.hold(COMFY, 7_400)
    await monitor.read()
    assert monitor.picture is not None
    assert monitor.picture.reading.used_mib == 3_400
    picture = await monitor.observe(torch_mib=7_000)
    assert picture is monitor.picture is not None
    assert picture.engine.held_mib == 7_400
    assert picture.reading.used_mib - picture.engine.held_mib == 3_000
    assert monitor.engine is decided
