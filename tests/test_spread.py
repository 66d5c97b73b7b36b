"""How the tests are spread over workers."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from tests.spread import APART, LONGEST, TOGETHER, Spread, rank, unit


def test_what_shares_a_server_is_one_unit_and_what_shares_nothing_is_many() -> None:
    assert unit("tests/dashboard/test_views.py::test_one[a::b]") == "tests/dashboard/"
    assert unit("tests/api/test_jobs.py::test_one[a::b]") == "tests/api/test_jobs.py"
    alone = f"{APART[0]}::test_one"
    assert unit(alone) == alone
    assert rank(f"{LONGEST[0]}test_views.py::test_one") < rank(alone) < rank("tests/api/x.py::y")


def test_every_place_that_is_named_is_there(pytestconfig: Any) -> None:
    for place in (*TOGETHER, *APART, *LONGEST):
        assert (pytestconfig.rootpath / place).exists(), place


def test_a_test_that_killed_its_worker_is_not_given_to_another() -> None:
    spread, node = Spread.__new__(Spread), object()
    spread.workqueue = OrderedDict()
    spread.assigned_work = {node: {"m": {"m::a": True, "m::b": False, "m::c": False}}}
    assert spread.remove_node(node) == "m::b"
    assert spread.workqueue == {"m": {"m::a": True, "m::b": True, "m::c": False}}
    spread.workqueue.clear()
    spread.assigned_work = {node: {"m": {"m::a": True}}}
    assert spread.remove_node(node) is None
