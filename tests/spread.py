"""How the tests are spread over the workers of pytest-xdist.

A module's tests go to one worker, as with `--dist loadscope`, with three differences: modules that
share an expensive server or browser stay together, modules whose tests each start their own
processes are dealt out test by test, and what takes longest begins first.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

TOGETHER = ("tests/dashboard/",)
"""Folders that are one unit: one browser, one set of servers."""

APART = (
    "tests/chaos/test_faults.py",
    "tests/chaos/test_owned_engine.py",
    "tests/chaos/test_crash_points.py",
    "tests/e2e/test_demo.py",
)
"""Modules whose tests share nothing and take seconds each."""

LONGEST = (
    "tests/dashboard/",
    "tests/acceptance/",
    "tests/bench/",
    "tests/chaos/",
    "tests/e2e/",
)
"""What is begun first, in this order, so that nothing long is left for the end."""


def unit(nodeid: str) -> str:
    """What is given to a worker as a whole, for one of its tests."""
    for folder in TOGETHER:
        if nodeid.startswith(folder):
            return folder
    module = nodeid.partition("::")[0]
    return nodeid if module in APART else module


def rank(nodeid: str) -> int:
    """Place of a test in the order of beginning."""
    found = (place for place, start in enumerate(LONGEST) if nodeid.startswith(start))
    return next(found, len(LONGEST))


class Spread(LoadScopeScheduling):  # type: ignore[misc]
    """Deals units out in the order of collection.

    A test that killed its worker is not given to the next one, as xdist's own class does until so
    many workers are dead that it ends the run.
    """

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid)

    def remove_node(self, node: WorkerController) -> str | None:
        """Take a worker out; the test that it died in counts as done and is returned."""
        dead = next(
            (
                (tests, nodeid)
                for tests in self.assigned_work[node].values()
                for nodeid, done in tests.items()
                if not done
            ),
            None,
        )
        if dead is not None:
            tests, nodeid = dead
            tests[nodeid] = True
        super().remove_node(node)
        return None if dead is None else dead[1]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Spread:
    """Asked by xdist for its scheduler."""
    config.option.loadscopereorder = False
    return Spread(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest first; else as it was."""
    items.sort(key=lambda item: rank(item.nodeid))
