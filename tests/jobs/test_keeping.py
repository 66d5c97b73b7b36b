"""A ComfyUI that keeps memory although it was asked to give it back, on a simulated card."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

from app.database import Database
from app.gpu.admission import Candidate
from app.gpu.estimate import Estimator
from app.gpu.monitor import GpuMonitor
from app.gpu.simulated import SimulatedCard
from app.jobs.engine import Engine
from app.jobs.gate import Gate, Verdict
from app.jobs.keeping import MOST_ASKED

COMFY = 42
BIG = Candidate("1", 20_000, "big")
SMALL = Candidate("2", 5_000, "small")


class Deaf:
    """An engine that holds 10,000 MiB whatever it is asked."""

    name, lives, ready, pids = "0", 0, True, (COMFY,)

    def __init__(self, *, owned: bool) -> None:
        self.supervisor = object() if owned else None
        self.client = SimpleNamespace(free=self.free)
        self.asked = 0

    async def free(self, **_: bool) -> None:
        self.asked += 1

    async def torch_mib(self) -> int:
        return 9_500


def gate_of(engine: Deaf, db: Database, backfill: float) -> Gate:
    card = SimulatedCard(total_mib=24_000)
    card.hold(COMFY, 10_000)
    return Gate(
        engine=cast("Engine", engine),
        monitor=GpuMonitor(card=card, margin_mib=512),
        estimator=Estimator(database=db, margin_mib=0),
        backfill_seconds=backfill,
        free_seconds=0.01,
        ask_again_seconds=0.02,
    )


async def until(gate: Gate, wanted: Callable[[Verdict], object]) -> Verdict:
    async with asyncio.timeout(60):
        while True:
            verdict = await gate.choose([BIG, SMALL], running_peak_mib=None)
            if wanted(verdict):
                return verdict
            await asyncio.sleep(0.01)


async def test_an_owned_engine_that_keeps_memory_is_restarted_once(db: Database) -> None:
    engine = Deaf(owned=True)
    gate = gate_of(engine, db, 0)
    verdict = await until(gate, lambda one: one.restart)
    assert engine.asked == MOST_ASKED
    assert verdict.job_id is None
    assert f"asked {MOST_ASKED} times" in str(verdict.restart)
    engine.lives += 1  # it was restarted, and holds as much again
    verdict = await until(gate, lambda one: one.job_id or one.restart)
    assert verdict.restart is None, "a restart that did not help is not tried again"
    assert verdict.job_id == SMALL.job_id


async def test_an_engine_of_somebody_else_stops_holding_up_those_that_fit(db: Database) -> None:
    engine = Deaf(owned=False)
    gate = gate_of(engine, db, 0.3)
    began = asyncio.get_running_loop().time()
    verdict = await until(gate, lambda one: one.job_id or one.restart)
    assert asyncio.get_running_loop().time() - began >= 0.3
    assert verdict.job_id == SMALL.job_id
    assert f"asked {MOST_ASKED} times" in verdict.waits[BIG.job_id].detail
    assert "restart ComfyUI" in verdict.waits[BIG.job_id].detail
    asked = engine.asked
    gate.started("small")  # and after it: the memory is asked for again, and no second bound begins
    verdict = await gate.choose([BIG, SMALL], running_peak_mib=None)
    assert (verdict.job_id, engine.asked) == (SMALL.job_id, asked + 1)
