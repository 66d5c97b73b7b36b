"""Status polls by the size of the store, and by what is in front of the same engine."""

from __future__ import annotations

import json
import random
from contextlib import ExitStack
from dataclasses import dataclass

from tests.bench import rival
from tests.bench.kit import Lab, Served, smoke
from tests.bench.load import drive, get
from tests.bench.seed import fill
from tests.bench.table import Figure, Goal, Row, spread_of

CLIENTS = 16
_MANY = 5_000
"""Different jobs that are asked for in turn: more than the gateway remembers the texts of."""


@dataclass
class _Case:
    """One thing to poll, measured once in each round so that all cases see the same machine."""

    name: str
    url: str
    requests: list[str]
    status: int
    rates: list[float]

    def measure(self, seconds: float) -> None:
        seen = drive(self.url, self.requests, clients=CLIENTS, seconds=seconds)
        self.rates.append(seen.only(self.status).rate)

    @property
    def figure(self) -> Figure:
        return spread_of(self.rates, "/s")


def rows(lab: Lab) -> list[Row]:
    """Polls of stores of two sizes: 200 and 304, few jobs and many; and comfy-api-proxy's."""
    sizes = lab.sizes
    with ExitStack() as stack:
        engine = stack.enter_context(lab.engine())
        cases: list[_Case] = []
        graph = None
        for jobs in (sizes.small_store, sizes.large_store):
            directory = lab.folder("gateway")
            ids = fill(directory, jobs)
            served = stack.enter_context(lab.gateway(engine.url, directory=directory))
            if graph is None:
                graph = _ran(served)
            cases += _cases(served, ids, jobs)
        reason = ""
        try:
            url = stack.enter_context(rival.running(engine.url, lab.folder("rival")))
            theirs = _Case(rival.NAME, url, [get(rival.run_one(url, graph or {}))], 200, [])
            cases.append(theirs)
        except rival.Unavailable as error:
            reason = str(error)
        for _ in range(sizes.repeats):
            for case in cases:
                case.measure(sizes.seconds)
    return _table(cases, reason, f"{sizes.large_store:,} jobs")


def _ran(served: Served) -> dict[str, object]:
    """Run a job; its graph as ComfyUI got it."""
    job_id = served.submit(smoke(served.uploads()))
    served.succeeded([job_id])
    return served.json("GET", f"/v1/jobs/{job_id}/artifacts/graph")


def _cases(served: Served, ids: list[str], jobs: int) -> list[_Case]:
    chooser = random.Random(1)
    few = chooser.sample(ids, CLIENTS)
    many = chooser.choices(ids, k=_MANY)
    tagged = []
    for one in few:
        _, headers, body = served.call("GET", f"/v1/jobs/{one}")
        assert json.loads(body)["id"] == one
        tagged.append(get(f"/v1/jobs/{one}", If_None_Match=headers["etag"]))
    said = f"{jobs:,} jobs, {CLIENTS} clients"
    return [
        _Case(
            f"polls 200, each its own job; {said}",
            served.url,
            [get(f"/v1/jobs/{one}") for one in few],
            200,
            [],
        ),
        _Case(
            f"polls 200, {min(jobs, _MANY):,} different jobs in turn; {said}",
            served.url,
            [get(f"/v1/jobs/{one}") for one in many],
            200,
            [],
        ),
        _Case(f"polls 304; {said}", served.url, tagged, 304, []),
    ]


def _table(cases: list[_Case], reason: str, large: str) -> list[Row]:
    theirs = next((case.figure for case in cases if case.name == rival.NAME), None)
    note = f"{rival.NAME} was not run: {reason}" if reason else ""
    found = []
    for case in cases:
        if case.name == rival.NAME:
            continue
        figure = case.figure
        goal = None
        if large in case.name and case.status == 200:
            ratio = None if theirs is None else figure.median / theirs.median
            goal = Goal("≥ 2,000/s and ≥ 1.5 x", figure.median >= 2_000 and (ratio or 0) >= 1.5)
        found.append(
            Row(
                name=case.name,
                figure=figure,
                versus=f"{rival.NAME}, one ended job",
                versus_figure=theirs,
                goal=goal,
                note=note,
            )
        )
    return found
