"""What a gateway costs: its start, its memory, its bytes in the database."""

from __future__ import annotations

import http.client
import sqlite3
import statistics
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from tests.bench.kit import (
    NOBODY,
    ROOT,
    Lab,
    MemoryWatch,
    pss_mib,
    rss_mib,
    smoke,
    start,
    tree_pss_mib,
)
from tests.bench.load import drive, get
from tests.bench.seed import fill
from tests.bench.table import Figure, Goal, Row, number, spread_of
from tests.livekit import environment
from tests.ports import free_port

_SETTLE_SECONDS = 2.0
"""How long a started gateway is left alone before its memory counts as idle."""

_LIBRARIES = (
    "fastapi, uvicorn, httptools, uvloop, httpx, websockets, pydantic, sqlmodel, "
    "sqlalchemy.dialects.sqlite, pynvml"
)


def start_rows(lab: Lab) -> list[Row]:
    """From the spawn of the process to its first 200."""
    repeats = lab.sizes.repeats + 2
    _import_seconds()  # compiles
    bare = [_import_seconds() for _ in range(repeats)]
    with lab.engine() as engine:
        stores = [lab.folder("gateway") for _ in range(repeats)]
        first = [_until_200(store, engine.url, "/readyz") for store in stores]
        again = [_until_200(store, engine.url, "/readyz") for store in stores]
    full = lab.folder("gateway")
    fill(full, lab.sizes.queued_at_start, queued=lab.sizes.queued_at_start)
    queued = [_until_200(full, NOBODY, "/healthz") for _ in range(repeats)]
    imports = spread_of(bare, "s")
    return [
        Row(
            name="first start to ready, no store yet (first 200 of /readyz)",
            figure=spread_of(first, "s"),
            versus="imports alone",
            versus_figure=imports,
            note="The store is made and migrated within that time; the engine is there. "
            "Bytecode is compiled already.",
        ),
        Row(
            name="start to ready, empty store (first 200 of /readyz)",
            figure=spread_of(again, "s"),
            versus="imports alone",
            versus_figure=imports,
            goal=Goal("≤ 1.0 s", statistics.median(again) <= 1.0),
        ),
        Row(
            name=f"start, {lab.sizes.queued_at_start:,} queued jobs (first 200 of /healthz)",
            figure=spread_of(queued, "s"),
            versus="imports alone",
            versus_figure=imports,
            goal=Goal("≤ 2.0 s", statistics.median(queued) <= 2.0),
            note="The engine is absent, so that the jobs stay queued; /readyz says 503 then.",
        ),
    ]


def _import_seconds() -> float:
    began = time.perf_counter()
    # Without the interpreter's own end, which is no part of a start.
    text = "import os, app.cli.server; os._exit(0)"
    own = environment(PYTHONDONTWRITEBYTECODE="")
    subprocess.run([sys.executable, "-c", text], cwd=ROOT, check=True, env=own)
    return time.perf_counter() - began


def _libraries(repeats: int) -> Figure:
    """Resident memory of a process that has only imported what the gateway is built on."""
    return spread_of([_rss_with(_LIBRARIES) for _ in range(repeats)], "MiB")


def _rss_with(imports: str) -> float:
    text = f"import {imports}; print('there', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == b"there\n"
        found = rss_mib(child.pid)
        child.stdin.write(b"\n")
    return found


def _until_200(directory: Path, engine_url: str, path: str) -> float:
    port = free_port()
    began = time.perf_counter()
    with start(directory, engine_url, port=port) as child:
        url = f"http://127.0.0.1:{port}"
        while not _is_200(url, path):
            assert child.alive, child.tail()
            assert time.perf_counter() - began < 60, child.tail()
            time.sleep(0.005)
        return time.perf_counter() - began


def _is_200(url: str, path: str) -> bool:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def memory_rows(lab: Lab) -> list[Row]:
    """Memory when idle, while polled, and after jobs; then the database's bytes for each job."""
    jobs = lab.sizes.jobs_for_bytes
    first, idle, idle_pss = [], [], []
    with lab.engine() as engine:
        for _ in range(lab.sizes.repeats):
            with lab.gateway(engine.url) as served:
                time.sleep(_SETTLE_SECONDS)
                first.append(rss_mib(served.pid))
            with lab.gateway(engine.url, directory=served.directory) as served:
                time.sleep(_SETTLE_SECONDS)
                idle.append(rss_mib(served.pid))
                idle_pss.append(pss_mib(served.pid))
        with lab.gateway(engine.url) as served:
            before = _bytes_without_media(served.directory)
            body = smoke(served.uploads())
            with MemoryWatch(served.pid) as memory:
                ids = [served.submit(body) for _ in range(jobs)]
                served.succeeded(ids)
                drive(
                    served.url,
                    [get(f"/v1/jobs/{one}") for one in ids],
                    clients=16,
                    seconds=lab.sizes.seconds,
                ).only(200)
            time.sleep(_SETTLE_SECONDS)
            after, tree = rss_mib(served.pid), tree_pss_mib(served.pid)
            grown = _bytes_without_media(served.directory) - before
    once = f"{jobs} jobs"
    return [
        Row(
            name="memory, idle",
            figure=spread_of(idle, "MiB"),
            versus="FastAPI, SQLModel, httpx and the like, imported alone",
            versus_figure=_libraries(lab.sizes.repeats),
            goal=Goal("≤ 90 MB", statistics.median(idle) * 1.048576 <= 90),
            note="Resident memory of the gateway's process, engine connected, store there before; "
            f"PSS {number(statistics.median(idle_pss))} MiB. A first start, which loads the "
            f"migrations' tool as well: {number(statistics.median(first))} MiB resident.",
        ),
        Row(
            name=f"memory, most while {once} run and 16 clients poll",
            figure=Figure(memory.peak, "one run", "MiB"),
            versus="idle",
            versus_figure=spread_of(idle, "MiB"),
        ),
        Row(
            name=f"memory, after {once}",
            figure=Figure(after, "one run", "MiB"),
            versus="idle",
            versus_figure=spread_of(idle, "MiB"),
            note=f"With the decoders' processes (PSS): {number(tree)} MiB.",
        ),
        Row(
            name="database bytes for each job, without media",
            figure=Figure(grown / jobs / 1024, f"one run, {once}", "KiB"),
            note="Growth of the used pages less the bytes of the stored videos; row, events, "
            "attempt with its graph, artifacts.",
        ),
    ]


def _bytes_without_media(directory: Path) -> int:
    store = sqlite3.connect(directory / "gateway.db", timeout=30)
    try:
        pages = _one(store, "PRAGMA page_count") - _one(store, "PRAGMA freelist_count")
        media = _one(store, "SELECT coalesce(sum(length(data)), 0) FROM chunk")
        return pages * _one(store, "PRAGMA page_size") - media
    finally:
        store.close()


def _one(store: sqlite3.Connection, text: str) -> int:
    return int(store.execute(text).fetchone()[0])
