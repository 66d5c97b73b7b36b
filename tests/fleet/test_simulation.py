"""The simulation agrees with what can be reckoned by hand."""

from __future__ import annotations

import pytest

from tests.fleet.simulation import Load, simulate


def test_a_few_pods_do_what_their_cards_can() -> None:
    load = Load(job_seconds=0.02, idle_seconds=0.001, lock_seconds=0.002, run_seconds=10)
    seen = simulate(load, pods=10, cores=2, seconds=300)
    assert seen.of_ideal == pytest.approx(1, abs=0.03)
    assert seen.claims[len(seen.claims) // 2] == pytest.approx(0.011, rel=0.05)
    assert seen.cores_busy == pytest.approx((1 * 0.02 + 10 * 0.001) / 2, rel=0.05)


@pytest.mark.parametrize(
    ("load", "most"),
    [
        (Load(job_seconds=0.1, idle_seconds=0, lock_seconds=0, run_seconds=10), 2 / 0.1),
        (Load(job_seconds=0, idle_seconds=0, lock_seconds=0.1, run_seconds=10), 1 / 0.1),
    ],
    ids=["cores", "lock"],
)
def test_too_many_pods_do_what_the_database_can(load: Load, most: float) -> None:
    seen = simulate(load, pods=1_000, cores=2, seconds=200)
    assert seen.jobs_a_second == pytest.approx(most, rel=0.05)
    assert seen.of_ideal < 0.3
    assert seen.claims[0] > 1
