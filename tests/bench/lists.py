"""Pages of a long list: first, middle and deep, with each filter."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from app.jobs.pages import Place, make_cursor
from tests.bench.kit import Lab, Served
from tests.bench.load import drive, get
from tests.bench.seed import DAYS, fill
from tests.bench.table import Goal, Row, ms_of, percentile

LIMIT = 50
PLACES = (("first", 0.0), ("middle", 0.5), ("deep", 0.99))
"""Where a page begins, and what share of the store is newer."""


def rows(lab: Lab) -> list[Row]:
    """Pages of 50 out of the large store, one call at a time."""
    jobs = lab.sizes.large_store
    directory = lab.folder("gateway")
    ids = fill(directory, jobs, queued=jobs // 100)
    middle = datetime.now(UTC) - timedelta(days=DAYS / 2)
    filters: dict[str, dict[str, str]] = {
        "no filter": {},
        "status=succeeded (84 %)": {"status": "succeeded"},
        "status=canceled (5 %)": {"status": "canceled"},
        "status=running (none)": {"status": "running"},
        "status=queued (1 %)": {"status": "queued"},
        "workflow": {"workflow": "smoke"},
        "workflow and status": {"workflow": "steadydancer", "status": "failed"},
        "metadata.project (10 %)": {"metadata.project": "p3"},
        "metadata.name (one job)": {"metadata.name": f"job {jobs // 2}"},
        "metadata.project and status (5 %)": {"metadata.project": "p1", "status": "failed"},
        "metadata.project and status (none)": {"metadata.project": "p3", "status": "failed"},
        "created_before": {"created_before": middle.isoformat()},
        "created_after": {"created_after": middle.isoformat()},
    }
    found = []
    small = lab.folder("small")
    few = fill(small, lab.sizes.small_store, queued=lab.sizes.small_store // 100)
    with lab.gateway(directory=directory) as served, lab.gateway(directory=small) as other:
        for place, share in PLACES:
            for said, query in filters.items():
                count, seconds = _calls(lab, served, ids, share, query)
                if share and not count:
                    continue  # nothing is so deep: it says nothing about pages
                _, theirs = _calls(lab, other, few, share, query)
                found.append(
                    Row(
                        name=f"{place} page of {jobs:,}, {said}",
                        figure=ms_of(seconds),
                        versus=f"of {lab.sizes.small_store:,} jobs",
                        versus_figure=ms_of(theirs),
                        goal=Goal("p99 ≤ 20 ms", percentile(seconds, 0.99) * 1000 <= 20),
                        note="" if count == LIMIT else f"The page has {count} jobs.",
                    )
                )
    return found


def _calls(
    lab: Lab, served: Served, ids: list[str], share: float, query: dict[str, str]
) -> tuple[int, list[float]]:
    """Ask for one page again and again: how many jobs it has, and the seconds of each call."""
    asked = {"limit": str(LIMIT), **query}
    if share:
        asked["cursor"] = make_cursor(Place(ids[-1 - int(share * (len(ids) - 1))]))
    path = f"/v1/jobs?{urlencode(asked)}"
    count = len(served.json("GET", path)["jobs"])
    seen = drive(served.url, [get(path)], count=lab.sizes.page_calls)
    return count, seen.only(200).latencies
