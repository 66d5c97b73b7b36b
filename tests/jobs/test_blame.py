"""A CUDA fault ends every run of an engine's life; the one that ran first is to blame."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from app.comfy.client import ComfyClient
from app.jobs.engine import Engine
from app.workflows.registry import Registry

AT = datetime(2026, 1, 1, tzinfo=UTC)
LATER = AT + timedelta(seconds=1)


@pytest.fixture
def engine() -> Engine:
    client = ComfyClient("http://127.0.0.1:9")
    return Engine(name="engine-0", client=client, workflows=Registry({}))


async def judged(engine: Engine, attempt_id: str, life: int = 0) -> asyncio.Task[bool]:
    """A verdict that is asked for, and was waited for as long as nothing else happens."""
    verdict = asyncio.create_task(engine.fault("CUDA error", attempt_id=attempt_id, life=life))
    for _ in range(3):
        await asyncio.sleep(0)
    return verdict


async def test_who_speaks_first_is_not_to_blame_for_the_run_before(engine: Engine) -> None:
    engine.placed("second", LATER)  # found again after a restart, in whatever order
    engine.placed("first", AT)
    second = await judged(engine, "second")
    assert not second.done()
    assert (engine.state, engine.ready) == ("unhealthy", False), "nothing more may start meanwhile"
    assert await (await judged(engine, "first"))
    assert not second.done()
    engine.ended("first")
    assert not await second


async def test_a_run_after_one_that_went_well_is_to_blame(engine: Engine) -> None:
    engine.placed("first", AT)
    engine.placed("second", LATER)
    second = await judged(engine, "second")
    engine.ended("first")
    assert await second


async def test_each_life_has_its_own_fault(engine: Engine) -> None:
    engine.placed("first", AT)
    assert await (await judged(engine, "first"))
    engine.ended("first")
    engine.placed("next", LATER)
    assert not await (await judged(engine, "next"))
    assert await (await judged(engine, "next", life=1))
