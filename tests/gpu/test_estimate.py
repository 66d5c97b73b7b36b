"""Needs: the formula's until a shape was seen, then what was seen, raised after out of memory."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from sqlmodel import Session, select

from app.database import Database
from app.gpu.card import Reading
from app.gpu.estimate import (
    RECENT,
    Estimator,
    ShapeKey,
    record,
    shape_key,
    summary,
)
from app.gpu.tables import VramSample
from app.gpu.transfer import export_samples, import_samples, reset

pytestmark = pytest.mark.both_databases

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
CARD = Reading(uuid="GPU-1", name="Test card", total_mib=24_000, reserved_mib=400, free_mib=23_600)
KEY = ShapeKey("steadydancer", "q4+fast", 480, 832, 81, "Test card")


@pytest.fixture
def estimator(db: Database) -> Estimator:
    return Estimator(database=db, margin_mib=500)


async def learn(estimator: Estimator, peak: int, *, key: ShapeKey = KEY, oom: bool = False) -> int:
    need = await estimator.learn(
        key, peak_mib=peak, reading=CARD, source="process", attempt_id="a", at=NOW, oom=oom
    )
    return need.mib


def need(estimator: Estimator, key: ShapeKey = KEY) -> tuple[int, bool]:
    found = estimator.need(key, formula_mib=17_000)
    return found.mib, found.learned


def test_the_key_of_a_shape_has_all_that_decides_its_memory() -> None:
    assert shape_key(KEY, card="Other card") == ShapeKey(
        "steadydancer", "q4+fast", 480, 832, 81, "Other card"
    )


def test_a_shape_that_was_never_seen_has_the_formulas_need(estimator: Estimator) -> None:
    assert need(estimator) == (17_000, False)


async def test_what_was_seen_replaces_the_formula_upwards_and_downwards(
    estimator: Estimator,
) -> None:
    await learn(estimator, 10_000)
    assert need(estimator) == (10_300, True)
    await learn(estimator, 20_000)
    assert need(estimator) == (20_600, True)


async def test_a_small_need_has_a_margin_that_matters(estimator: Estimator) -> None:
    assert await learn(estimator, 1_000) == 1_128


async def test_the_highest_of_the_recent_samples_counts(estimator: Estimator) -> None:
    for peak in (12_000, 14_000, 13_000):
        await learn(estimator, peak)
    assert need(estimator) == (14_420, True)


async def test_an_old_peak_is_forgotten_once_enough_newer_ones_were_lower(
    estimator: Estimator, db: Database
) -> None:
    await learn(estimator, 20_000)
    for _ in range(RECENT - 1):
        await learn(estimator, 10_000)
    assert need(estimator) == (20_600, True)
    await learn(estimator, 10_000)
    assert need(estimator) == (10_300, True)
    assert await db.read(lambda s: len(s.exec(select(VramSample)).all())) == RECENT


@pytest.mark.parametrize(
    "other",
    [
        ShapeKey("smoke", "q4+fast", 480, 832, 81, "Test card"),
        ShapeKey("steadydancer", "q4+fast+low", 480, 832, 81, "Test card"),
        ShapeKey("steadydancer", "q4+fast", 832, 480, 81, "Test card"),
        ShapeKey("steadydancer", "q4+fast", 480, 832, 77, "Test card"),
        ShapeKey("steadydancer", "q4+fast", 480, 832, 81, "Other card"),
    ],
)
async def test_one_shape_teaches_nothing_about_another(
    estimator: Estimator, other: ShapeKey
) -> None:
    await learn(estimator, 10_000)
    assert need(estimator, other) == (17_000, False)
    await learn(estimator, 20_000, key=other)
    assert need(estimator) == (10_300, True)


async def test_out_of_memory_raises_the_need_above_what_was_not_enough(
    estimator: Estimator,
) -> None:
    await learn(estimator, 10_000)
    await learn(estimator, 14_000, oom=True)
    assert need(estimator) == (16_100, True)


async def test_out_of_memory_again_and_again_stops_at_what_the_card_can_give(
    estimator: Estimator,
) -> None:
    figure = 14_000
    for _ in range(10):
        figure = await learn(estimator, figure, oom=True)
    assert figure == 23_600 - 500


async def test_success_after_out_of_memory_lowers_the_need_only_with_time(
    estimator: Estimator,
) -> None:
    await learn(estimator, 14_000, oom=True)
    await learn(estimator, 12_000)
    assert need(estimator) == (16_100, True)


async def test_what_was_learned_outlives_a_restart(estimator: Estimator, db: Database) -> None:
    await learn(estimator, 10_000)
    fresh = Estimator(database=db, margin_mib=500)
    assert need(fresh) == (17_000, False)
    await fresh.refresh()
    assert need(fresh) == (10_300, True)


async def test_what_another_process_resets_is_forgotten_without_a_restart(
    estimator: Estimator, db: Database
) -> None:
    await learn(estimator, 10_000)
    smoke = ShapeKey("smoke", "", 64, 64, 5, "Test card")
    await learn(estimator, 900, key=smoke)
    following = asyncio.create_task(estimator.run(every_seconds=0.001))
    assert await db.write(lambda s: reset(s, workflow="steadydancer")) == 1
    async with asyncio.timeout(20):
        while need(estimator)[1]:  # noqa: ASYNC110 - it is a figure that changes, not an event
            await asyncio.sleep(0.001)
    assert need(estimator) == (17_000, False)
    assert need(estimator, smoke)[1]
    following.cancel()
    assert await db.write(reset) == 1


async def test_the_summary_shows_each_shape_with_its_figures(
    estimator: Estimator, db: Database
) -> None:
    await learn(estimator, 10_000)
    await learn(estimator, 12_000, oom=True)
    await learn(estimator, 900, key=ShapeKey("smoke", "", 64, 64, 5, "Test card"))
    smoke, dancer = await db.read(summary)
    assert (smoke.key.workflow, smoke.samples, smoke.ooms) == ("smoke", 1, 0)
    assert dancer.key == KEY
    assert (dancer.samples, dancer.ooms, dancer.peak_mib) == (2, 1, 12_000)
    assert (dancer.need_mib, dancer.last_at) == (13_800, NOW)
    assert len(await db.read(lambda s: summary(s, workflow="smoke"))) == 1


async def test_an_export_imports_on_another_machine_once(
    estimator: Estimator, db: Database
) -> None:
    await learn(estimator, 10_000)
    await learn(estimator, 14_000, oom=True)
    rows = json.loads(json.dumps(await db.read(export_samples)))
    before = await db.read(summary)
    assert await db.write(lambda s: import_samples(s, rows)) == 0
    await db.write(reset)
    assert await db.write(lambda s: import_samples(s, rows)) == 2
    assert await db.read(summary) == before
    assert await db.write(lambda s: import_samples(s, rows)) == 0


@pytest.mark.parametrize(
    "change",
    [{"peak_mib": "many"}, {"peak_mib": 0}, {"source": "guess"}, {"at": "2026-01-01T00:00:00"}],
)
async def test_a_bad_import_is_refused_with_its_row_and_keeps_nothing(
    estimator: Estimator, db: Database, change: dict[str, object]
) -> None:
    await learn(estimator, 10_000)
    (good,) = await db.read(export_samples)
    rows = [{**good, "frames": 5}, {**good, **change}]
    with pytest.raises(ValueError, match="Row 1"):
        await db.write(lambda s: import_samples(s, rows))
    assert len(await db.read(export_samples)) == 1


async def test_an_import_without_a_field_is_refused(db: Database) -> None:
    with pytest.raises(ValueError, match="Row 0"):
        await db.write(lambda s: import_samples(s, [{"workflow": "smoke"}]))


async def test_a_year_of_samples_stays_small_and_quick(db: Database) -> None:
    def year(session: Session) -> None:
        for number in range(200):
            record(
                session,
                KEY,
                peak_mib=10_000 + number,
                card_mib=23_100,
                oom=False,
                source="device",
                attempt_id=str(number),
                at=NOW + timedelta(days=number),
            )

    await db.write(year)
    (one,) = await db.read(summary)
    assert (one.samples, one.peak_mib) == (RECENT, 10_199)
