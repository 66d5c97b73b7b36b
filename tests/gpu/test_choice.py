"""Which of the queued jobs starts, who may pass whom, and how long a reading has to hold."""

from __future__ import annotations

from app.gpu.admission import (
    UNKNOWN_MODELS,
    Admit,
    Candidate,
    FreeFirst,
    Settled,
    Situation,
    choose,
    decide,
    loaded_after,
)
from app.gpu.card import Reading
from app.gpu.engine_memory import EngineMemory


def situation(
    *, free: int, held: int = 0, loaded: str | None = "a", running: int | None = None
) -> Situation:
    return Situation(
        reading=Reading(uuid="GPU-1", name="Test card", total_mib=24_000, free_mib=free),
        engine=EngineMemory(held, "pid", frozenset({42}), 0),
        loaded=loaded,
        running_need_mib=running,
        margin_mib=0,
    )


def job(
    job_id: str, need: int, *, priority: int = 0, waited: float = 0, models: str = "a"
) -> Candidate:
    return Candidate(job_id, need, models, priority, waited)


def test_of_the_same_priority_the_oldest_starts() -> None:
    choice = choose([job("2", 10), job("1", 10)], situation(free=100), backfill_seconds=300)
    assert (choice.job_id, type(choice.decision)) == ("1", Admit)


def test_a_higher_priority_starts_before_an_older_job() -> None:
    jobs = [job("1", 10), job("2", 10, priority=5)]
    assert choose(jobs, situation(free=100), backfill_seconds=300).job_id == "2"


def test_a_smaller_job_passes_one_that_has_no_room() -> None:
    jobs = [job("1", 500, waited=299), job("2", 50)]
    choice = choose(jobs, situation(free=100), backfill_seconds=300)
    assert choice.job_id == "2"
    assert choice.waits["1"].wait.need_mib == 500


def test_nobody_passes_a_job_that_has_waited_long_enough() -> None:
    jobs = [job("1", 500, waited=300), job("2", 50), job("3", 50, priority=-1)]
    choice = choose(jobs, situation(free=100), backfill_seconds=300)
    assert (choice.job_id, choice.held_back_by) == (None, "1")
    assert set(choice.waits) == {"1"}


def test_a_higher_priority_is_not_held_back_by_a_job_behind_it() -> None:
    jobs = [job("1", 500, waited=9_999), job("2", 50, priority=1)]
    assert choose(jobs, situation(free=100), backfill_seconds=300).job_id == "2"


def test_without_backfill_nobody_passes() -> None:
    jobs = [job("1", 500), job("2", 50)]
    assert choose(jobs, situation(free=100), backfill_seconds=0).job_id is None


def test_a_job_that_waits_for_the_running_one_to_end_is_next_and_not_passed() -> None:
    jobs = [job("1", 15_000, models="b"), job("2", 50)]
    running = situation(free=14_000, held=10_000, running=20_000)
    choice = choose(jobs, running, backfill_seconds=300)
    assert (choice.job_id, choice.held_back_by) == (None, "1")
    assert choice.waits["1"].until == "running"
    after = choose(jobs, situation(free=4_000, held=20_000), backfill_seconds=300)
    assert (after.job_id, type(after.decision)) == ("1", FreeFirst)


def test_a_job_that_can_never_fit_is_named_and_blocks_nobody() -> None:
    jobs = [job("1", 24_001, waited=9_999), job("2", 50)]
    choice = choose(jobs, situation(free=100), backfill_seconds=300)
    assert (choice.job_id, list(choice.never)) == ("2", ["1"])


def test_with_admission_off_the_first_is_admitted_and_it_says_so() -> None:
    choice = choose([job("2", 10**9), job("1", 10**9)], None, backfill_seconds=300)
    assert choice.job_id == "1"
    assert choice.decision == Admit("Admission is off.", 10**9)


def test_models_of_several_kinds_beside_one_another_are_no_jobs_own() -> None:
    assert loaded_after(None, "a") == "a"
    assert loaded_after("a", "a") == "a"
    assert loaded_after("a", "b") == UNKNOWN_MODELS
    assert loaded_after(UNKNOWN_MODELS, "b") == UNKNOWN_MODELS


def test_what_a_job_will_hold_includes_what_stays_loaded_beside_it() -> None:
    beside = decide(5_000, "b", situation(free=14_000, held=10_000))
    assert isinstance(beside, Admit)
    assert beside.peak_mib == 15_000
    behind = decide(5_000, "a", situation(free=14_000, held=10_000, running=20_000))
    assert isinstance(behind, Admit)
    assert behind.peak_mib == 20_000


def test_an_empty_queue_starts_nothing() -> None:
    assert choose([], None, backfill_seconds=300).job_id is None
    assert choose([], situation(free=100), backfill_seconds=300).job_id is None


# --- hysteresis ------------------------------------------------------------------------------


def test_the_first_reading_decides_at_once() -> None:
    assert Settled().budget_mib is None
    assert Settled().add(100, 0.0).budget_mib == 100


def test_memory_counts_as_free_once_it_stayed_free_for_the_settling_time() -> None:
    settled = Settled(settle_seconds=1.0)
    for at, budget in [(0.0, 10), (0.25, 100), (0.5, 100), (0.75, 100)]:
        settled = settled.add(budget, at)
        assert settled.budget_mib == 10
    assert settled.add(100, 1.0).budget_mib == 100


def test_one_good_reading_between_bad_ones_admits_nothing_however_slow_the_readings() -> None:
    settled = Settled(settle_seconds=1.0, stale_seconds=10.0)
    for number in range(20):
        settled = settled.add(100 if number % 2 else 10, number * 5.0)
        assert settled.budget_mib == 10


def test_a_flicker_faster_than_the_settling_time_admits_nothing() -> None:
    settled = Settled(settle_seconds=1.0)
    for number in range(400):
        settled = settled.add(10 if number % 4 == 0 else 100, number * 0.25)
        assert settled.budget_mib == 10


def test_a_reading_from_long_ago_says_nothing_about_now() -> None:
    settled = Settled(stale_seconds=10.0).add(10, 0.0)
    assert settled.add(100, 9.9).budget_mib == 10
    assert settled.add(100, 10.0).budget_mib == 100


def test_less_room_counts_at_once() -> None:
    assert Settled().add(100, 0.0).add(10, 0.1).budget_mib == 10


def test_the_state_stays_small() -> None:
    settled = Settled()
    for number in range(10_000):
        settled = settled.add(number, number * 0.1)
    assert len(settled.seen) < 20
