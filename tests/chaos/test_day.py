"""A day's mix of jobs on a simulated card, through the real dispatcher and a real stand-in."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import pytest
from sqlmodel import Session, col, select

from app.gateway import Gateway
from app.gpu.admission import Candidate
from app.gpu.card import CardUnreadable
from app.gpu.estimate import shape_key
from app.gpu.simulated import SimulatedCard
from app.jobs import queue
from app.jobs.gate import Verdict
from app.jobs.queue import NewJob
from app.jobs.shapes import parse_shape
from app.jobs.tables import Attempt, Job, JobEvent
from app.settings import Settings
from tests.chaos.processes import PATIENCE, SAMPLES, Engine

CARD_MIB = 10_000
ENGINE_MIB = 300
MARGIN_MIB = 100
STRANGER = 4711
ENGINE_PID = 1
LARGE, SMALL = 9_000, 1_500


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(
        tmp_path / "engine",
        *("--no-work", "--step-seconds", "0", "--vram-total-mib", str(CARD_MIB)),
        *("--need-mib", str(ENGINE_MIB)),
    )
    engine.start()
    yield engine
    engine.kill()


def make(directory: Path, engine: Engine, *cards: SimulatedCard, first: str = "") -> Gateway:
    """A gateway whose last card is that of `engine`; `first` is where the one before it is."""
    settings = Settings(
        data_dir=directory,
        comfyui_urls=(*filter(None, (first,)), engine.url),
        vram_margin_mib=MARGIN_MIB,
        backfill_seconds=2,
        min_free_bytes=0,
        quiet_seconds=0.3,
    )
    return Gateway(settings, cards=cards)


def new_job(
    uploads: dict[str, str], need_mib: int, number: int, *, low_memory_mib: int | None = None
) -> NewJob:
    shape = f"smoke/default/64x112x{number}"
    low_memory_shape = shape if low_memory_mib is None else f"smoke/default+low/64x112x{number}"
    return NewJob(
        workflow="smoke",
        owner=None,
        request={"width": 64, "height": 112, "frames": 17, "fps": 16, "start_seconds": 0.0},
        inputs=uploads,
        shape=shape,
        formula_mib=need_mib,
        low_memory_shape=low_memory_shape,
        low_memory_mib=low_memory_mib or need_mib,
    )


async def uploaded(gateway: Gateway) -> dict[str, str]:
    async def pieces(name: str) -> AsyncIterator[bytes]:
        yield (SAMPLES / name).read_bytes()

    found = {}
    for field, name in (("reference_image", "photo.jpg"), ("driving_video", "dance.mp4")):
        found[field] = (await gateway.intake.upload(pieces(name), owner=None)).view.id
    return found


async def eventually(
    condition: Callable[[], Awaitable[bool]], *, seconds: float = PATIENCE
) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - it is a row that changes, not an event
            await asyncio.sleep(0.1)


class Day:
    """Another process that takes and leaves the card at random, and what it held when."""

    def __init__(self, card: SimulatedCard, seed: int) -> None:
        self.card = card
        self.random = random.Random(seed)
        self.held: list[tuple[float, int]] = [(0.0, 0)]

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            mib = self.random.choice([0, 0, 0, 4_000, 9_000])
            self.card.hold(STRANGER, mib)
            self.held.append((loop.time(), mib))
            await asyncio.sleep(self.random.uniform(0.3, 1.5))


def rows(session: Session) -> dict[str, tuple[str, int, datetime, datetime | None]]:
    return {
        job.id: (job.status, job.formula_mib, job.created_at, job.started_at)
        for job in session.exec(select(Job)).all()
    }


async def test_no_job_starts_into_occupied_memory_and_none_starves(
    engine: Engine, tmp_path: Path
) -> None:
    card = SimulatedCard(total_mib=CARD_MIB)
    card.hold(ENGINE_PID, ENGINE_MIB)
    gateway = make(tmp_path / "gateway", engine, card)
    admitted: list[tuple[int, int]] = []
    gate = gateway.stations[0].gate
    choose = gate.choose

    async def watched(candidates: Sequence[Candidate], *, running_peak_mib: int | None) -> Verdict:
        before = card.held(STRANGER)
        verdict = await choose(candidates, running_peak_mib=running_peak_mib)
        if verdict.job_id is not None:
            need = next(one.need_mib for one in candidates if one.job_id == verdict.job_id)
            # The stranger may have moved while the gate looked; it saw one of the two.
            admitted.append((need, min(before, card.held(STRANGER))))
        return verdict

    gate.choose = watched  # type: ignore[method-assign]
    async with gateway.running():
        uploads = await uploaded(gateway)
        day = Day(card, seed=53)  # begins with nearly all of the card
        stranger = asyncio.create_task(day.run())
        needs = [LARGE if number % 4 == 0 else SMALL for number in range(12)]
        for number, need in enumerate(needs):
            job = new_job(uploads, need, number)
            await gateway.db.write(lambda s, j=job: queue.submit(s, j, now=gateway.now()))  # type: ignore[misc]
            gateway.stations[0].dispatcher.wake()
            await asyncio.sleep(0.05)

        async def all_done() -> bool:
            found = await gateway.db.read(rows)
            return {status for status, *_ in found.values()} == {"succeeded"}

        await eventually(all_done, seconds=len(needs) * 30)
        stranger.cancel()
        found = await gateway.db.read(rows)
        phases = await gateway.db.read(
            lambda s: s.exec(select(JobEvent.data).where(col(JobEvent.type) == "job.phase")).all()
        )
    assert len(admitted) >= len(needs)
    for need, others in admitted:
        assert need + others <= CARD_MIB - MARGIN_MIB, "a job was let into occupied memory"
    assert any(data.get("phase") == "waiting_for_vram" for data in phases), "nothing ever waited"
    assert all(started is not None for _, _, _, started in found.values())


async def test_a_card_that_fails_admits_nothing_says_so_and_recovers(
    engine: Engine, tmp_path: Path
) -> None:
    card = SimulatedCard(total_mib=CARD_MIB)
    gateway = make(tmp_path / "gateway", engine, card)
    async with gateway.running():
        uploads = await uploaded(gateway)
        card.problem = CardUnreadable("The GPU is lost.", advice="Restart the pod.")
        job_id = (
            await gateway.db.write(
                lambda s: queue.submit(s, new_job(uploads, SMALL, 1), now=gateway.now())
            )
        ).job_id
        gateway.stations[0].dispatcher.wake()

        async def job() -> Job:
            return await gateway.db.read(lambda s: s.exec(select(Job)).one().model_copy())

        async def waits() -> bool:
            return (await job()).phase == "waiting_for_engine"

        async def done() -> bool:
            return (await job()).status == "succeeded"

        await eventually(waits)
        assert "GPU is lost" in ((await job()).reason or "")
        assert (await job()).attempt == 0
        card.problem = None
        await eventually(done)
        assert (await job()).id == job_id


async def test_a_shape_that_ran_out_of_memory_once_does_not_hold_the_queue_for_ever(
    engine: Engine, tmp_path: Path
) -> None:
    """Somebody always has a little of the card, and the learned need is all of it."""
    card = SimulatedCard(total_mib=CARD_MIB)
    card.hold(ENGINE_PID, ENGINE_MIB)
    card.hold(STRANGER, 2_000)
    gateway = make(tmp_path / "gateway", engine, card)
    async with gateway.running():
        uploads = await uploaded(gateway)
        gate = gateway.stations[0].gate
        reading = await gate.monitor.read()
        assert reading is not None
        job = new_job(uploads, LARGE, 1, low_memory_mib=SMALL)
        need = await gateway.estimator.learn(
            shape_key(parse_shape(job.shape), card=reading.name),
            peak_mib=9_500,
            reading=reading,
            source="process",
            attempt_id="an earlier one",
            at=gateway.now(),
            oom=True,
        )
        assert need.mib > CARD_MIB - MARGIN_MIB - 2_000
        for one in (job, new_job(uploads, SMALL, 2)):
            await gateway.db.write(lambda s, j=one: queue.submit(s, j, now=gateway.now()))  # type: ignore[misc]
        gateway.stations[0].dispatcher.wake()

        async def all_done() -> bool:
            found = await gateway.db.read(rows)
            return {status for status, *_ in found.values()} == {"succeeded"}

        await eventually(all_done)
        low = await gateway.db.read(
            lambda s: dict(s.exec(select(Attempt.job_id, Attempt.low_memory)).all())
        )
    assert sorted(low.values()) == [False, True]


async def test_a_job_too_large_for_one_card_waits_for_the_other(
    engine: Engine, tmp_path: Path
) -> None:
    """The small card refuses it at once; the large one, taken by a stranger, says why it waits."""
    small, large = SimulatedCard(total_mib=4_000), SimulatedCard(total_mib=CARD_MIB)
    large.hold(STRANGER, 5_000)
    gateway = make(tmp_path / "gateway", engine, small, large, first=engine.url)
    async with gateway.running():
        uploads = await uploaded(gateway)
        for station in gateway.stations:
            await station.gate.monitor.read()
        await gateway.db.write(
            lambda s: queue.submit(s, new_job(uploads, LARGE, 1), now=gateway.now())
        )
        for station in gateway.stations:
            station.dispatcher.wake()

        async def job() -> Job:
            return await gateway.db.read(lambda s: s.exec(select(Job)).one().model_copy())

        async def waits() -> bool:
            return (await job()).phase == "waiting_for_vram"

        async def ended() -> bool:
            return (await job()).finished_at is not None

        await eventually(waits)
        large.exit(STRANGER)
        await eventually(ended)
        assert (await job()).status == "succeeded"


async def test_an_engine_that_is_away_says_nothing_of_jobs_that_another_can_start(
    engine: Engine, tmp_path: Path
) -> None:
    cards = [SimulatedCard(total_mib=CARD_MIB) for _ in range(2)]
    cards[1].hold(STRANGER, 5_000)
    gateway = make(tmp_path / "gateway", engine, *cards, first="http://127.0.0.1:9")
    away, there = (station.dispatcher for station in gateway.stations)
    async with gateway.running():
        uploads = await uploaded(gateway)
        await there.engine.wait_ready(30)
        await gateway.db.write(
            lambda s: queue.submit(s, new_job(uploads, LARGE, 1), now=gateway.now())
        )
        there.wake()

        async def phases() -> list[str]:
            data = await gateway.db.read(
                lambda s: s.exec(
                    select(JobEvent.data).where(col(JobEvent.type) == "job.phase")
                ).all()
            )
            return [str(one["phase"]) for one in data]

        async def waits() -> bool:
            return bool(await phases())

        await eventually(waits)
        assert away.engine.state == "unreachable"
        for _ in range(3):
            await away._step()
            await there._step()
        assert await phases() == ["waiting_for_vram"]


async def test_the_first_run_after_a_start_that_runs_out_of_memory_raises_the_figure(
    engine: Engine, tmp_path: Path
) -> None:
    """Nobody knows then what else the engine has loaded, so that its peak is nobody's."""
    card = SimulatedCard(total_mib=CARD_MIB)
    card.hold(ENGINE_PID, ENGINE_MIB)
    gateway = make(tmp_path / "gateway", engine, card)
    engine.misbehave("out_of_memory", times=1)
    async with gateway.running():
        job = new_job(await uploaded(gateway), SMALL, 1, low_memory_mib=SMALL)
        await gateway.db.write(lambda s: queue.submit(s, job, now=gateway.now()))
        gateway.stations[0].dispatcher.wake()

        async def ended() -> bool:
            return {status for status, *_ in (await gateway.db.read(rows)).values()} == {
                "succeeded"
            }

        await eventually(ended)
        need = gateway.stations[0].gate.need(job.shape, job.formula_mib)
    assert need.ran_out
    assert need.mib == SMALL * 115 // 100


async def test_a_shape_is_learned_though_the_card_has_room_for_everything(
    engine: Engine, tmp_path: Path
) -> None:
    """Memory is never short, so nothing but the wish to learn asks for other models back."""
    card = SimulatedCard(total_mib=CARD_MIB)
    card.hold(ENGINE_PID, ENGINE_MIB)
    gateway = make(tmp_path / "gateway", engine, card)
    gate, dispatcher = gateway.stations[0].gate, gateway.stations[0].dispatcher
    async with gateway.running():
        uploads = await uploaded(gateway)
        job = new_job(uploads, SMALL, 1)
        await gateway.db.write(lambda s: queue.submit(s, job, now=gateway.now()))
        dispatcher.wake()

        async def succeeded() -> bool:
            return [one[0] for one in (await gateway.db.read(rows)).values()] == ["succeeded"]

        await eventually(succeeded)
        assert gate.need(job.shape, SMALL).learned, "an engine that holds nothing has no models"
        assert gate.started("a")
        for models, measured in (("b", False), ("c", True)):
            new = Candidate("1", SMALL, models, measured=measured)
            assert (await gate.choose([new], running_peak_mib=None)).job_id == "1"
            assert gate.started(models) is not measured, "alone exactly if it was never measured"
