"""A short campaign with a seed that is printed; `make chaos` runs a long one."""

from __future__ import annotations

import random
from pathlib import Path

from tests.chaos.campaign import Campaign


def test_random_faults_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    report = Campaign(tmp_path, jobs=8, seed=seed).run()
    assert report.ok, (seed, *report.lines(), *report.lost, *report.doubled, *report.not_ended)
    assert report.jobs == 8
    assert sum(report.faults.values()) > 2
