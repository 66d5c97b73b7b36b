"""Durable submissions, beside what SQLite itself commits in the same folder."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path

from tests.bench.kit import Lab, smoke
from tests.bench.load import drive, post
from tests.bench.table import Goal, Row, ms_of, number, percentile, spread_of

CLIENTS = (1, 4, 16)


def rows(lab: Lab) -> list[Row]:
    """Submissions a second with 1, 4 and 16 clients."""
    sizes = lab.sizes
    rates: dict[int, list[float]] = {clients: [] for clients in CLIENTS}
    latencies: dict[int, list[float]] = {clients: [] for clients in CLIENTS}
    raw: list[float] = []
    with lab.engine() as engine, lab.gateway(engine.url) as served:
        body = smoke(served.uploads())
        served.json("POST", "/v1/system/drain")  # what is measured is accepting, not running
        request = post("/v1/jobs", body)
        for _ in range(sizes.repeats):
            raw.append(_commits(served.directory, json.dumps(body), sizes.seconds / 2))
            for clients in CLIENTS:
                seen = drive(served.url, [request], clients=clients, seconds=sizes.seconds)
                rates[clients].append(seen.only(202).rate)
                latencies[clients] += seen.latencies
        stored = _count(served.directory)
    accepted = sum(len(one) for one in latencies.values())
    assert stored == accepted, f"{accepted} were accepted, {stored} are stored"
    return [_row(clients, rates[clients], latencies[clients], raw) for clients in CLIENTS]


def _row(clients: int, rates: list[float], latencies: list[float], raw: list[float]) -> Row:
    rate, high = spread_of(rates, "/s"), percentile(latencies, 0.99) * 1000
    latency = ms_of(latencies)
    goal = None
    if clients == 16:
        goal = Goal("≥ 400/s, p99 ≤ 60 ms", rate.median >= 400 and high <= 60)
    return Row(
        name=f"durable submissions, {clients} client{'s' if clients > 1 else ''}",
        figure=rate,
        versus="SQLite's own commits, one writer",
        versus_figure=spread_of(raw, "/s"),
        goal=goal,
        note=f"Latency p50 {number(latency.median)} ms, p99 {number(high)} ms. The gateway is "
        "drained: jobs are accepted and none runs. Every answer was counted in the store.",
    )


def _commits(directory: Path, text: str, seconds: float) -> float:
    """Commits a second of one row of the same size: WAL, synchronous=FULL, the same folder."""
    path = directory / "raw.db"
    store = sqlite3.connect(path, isolation_level=None)
    try:
        store.execute("PRAGMA journal_mode=WAL")
        store.execute("PRAGMA synchronous=FULL")
        store.execute("CREATE TABLE IF NOT EXISTS job (id INTEGER PRIMARY KEY, body TEXT)")
        count, began = 0, time.perf_counter()
        while (took := time.perf_counter() - began) < seconds:
            store.execute("BEGIN IMMEDIATE")
            store.execute("INSERT INTO job (body) VALUES (?)", (text,))
            store.execute("COMMIT")
            count += 1
        return count / took
    finally:
        store.close()


def _count(directory: Path) -> int:
    store = sqlite3.connect(directory / "gateway.db", timeout=30)
    try:
        return int(store.execute("SELECT count(*) FROM job").fetchone()[0])
    finally:
        store.close()
