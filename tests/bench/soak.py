"""`make soak`: many jobs at once and many watchers; does anything grow that should not?

Prints a line for every tenth of the run: memory, file handles, threads, the database's size, and
how long a submission and a poll took meanwhile.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sqlite3
import sys
import threading
import time
from contextlib import closing
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from urllib.parse import urlsplit

from tests.bench.kit import IDLE_SECONDS, Lab, Served, Sizes, rss_mib, smoke
from tests.bench.table import number, percentile

DASHBOARD = ("/v1/jobs?limit=50", "/v1/system", "/v1/jobs?status=running&limit=50")
"""What a dashboard page asks for, once a second each."""

_SUBMITTERS = 2
_AHEAD = 100
"""Jobs that are queued at most, as by clients that wait for theirs."""


@dataclass(frozen=True, slots=True)
class Tenth:
    """The gateway at the end of a tenth of the jobs. Latencies are p50 and p99 of that tenth."""

    jobs: int
    seconds: float
    rss_mib: float
    handles: int
    threads: int
    database_mib: float
    submit_p50_ms: float
    submit_p99_ms: float
    poll_p50_ms: float
    poll_p99_ms: float


class Soak:
    """One run: who submits, who watches, and what is noted."""

    def __init__(self, served: Served, *, jobs: int, watchers: int) -> None:
        self._served = served
        self._jobs = jobs
        self._watchers = watchers
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._numbers = iter(range(jobs))
        self._submits: list[float] = []
        self._polls: list[float] = []
        self._newest = ""
        self._accepted = 0
        self._done = 0
        self._failures: list[str] = []

    def run(self) -> list[Tenth]:
        """Submit and watch until every job has ended; a line for each tenth.

        Raises:
            AssertionError: A call failed, a job did not succeed, or nothing moves any more.
        """
        body = smoke(self._served.uploads())
        threads = [
            *(threading.Thread(target=self._submit, args=(body,)) for _ in range(_SUBMITTERS)),
            *(
                threading.Thread(target=self._watch, args=(number_ % 2 == 0,))
                for number_ in range(self._watchers)
            ),
            threading.Thread(target=self._look),
        ]
        for thread in threads:
            thread.daemon = True
            thread.start()
        tenths = []
        began = moved = time.monotonic()
        before = 0
        for tenth in range(1, 11):
            wanted = self._jobs * tenth // 10
            while (ended := self._ended()) < wanted:
                if ended != before:
                    before, moved = ended, time.monotonic()
                assert not self._failures, self._failures[0]
                assert time.monotonic() - moved < 60, f"nothing has ended for a minute: {ended}"
                time.sleep(0.1)
            tenths.append(self._note(ended, time.monotonic() - began))
            print(_line(astuple(tenths[-1])), flush=True)
        self._over.set()
        for thread in threads:
            thread.join(30)
        assert not self._failures, self._failures[0]
        return tenths

    def _ended(self) -> int:
        """How many jobs have ended, as the store says; all must have succeeded."""
        text = "SELECT status, count(*) FROM job WHERE finished_at IS NOT NULL GROUP BY status"
        with closing(sqlite3.connect(self._served.directory / "gateway.db", timeout=30)) as store:
            found = dict(store.execute(text).fetchall())
        assert set(found) <= {"succeeded"}, f"not every job succeeded: {found}"
        self._done = int(found.get("succeeded", 0))
        return self._done

    def _note(self, ended: int, seconds: float) -> Tenth:
        with self._lock:
            submits, self._submits = self._submits, []
            polls, self._polls = self._polls, []
        directory, proc = self._served.directory, Path(f"/proc/{self._served.pid}")
        return Tenth(
            ended,
            seconds,
            rss_mib(self._served.pid),
            len(list((proc / "fd").iterdir())),
            len(list((proc / "task").iterdir())),
            sum(one.stat().st_size for one in directory.glob("gateway.db*")) / 2**20,
            *_ms(submits),
            *_ms(polls),
        )

    def _submit(self, body: dict[str, object]) -> None:
        client = _Client(self._served.url, self._failures)
        while not self._over.is_set():
            if self._accepted - self._done >= _AHEAD:
                time.sleep(0.02)
                continue
            with self._lock:
                if next(self._numbers, None) is None:
                    return
            seconds, text = client.call("POST", "/v1/jobs", json.dumps(body))
            if text is None:
                return
            with self._lock:
                self._submits.append(seconds)
                self._newest = str(json.loads(text)["id"])
                self._accepted += 1

    def _watch(self, streaming: bool) -> None:  # noqa: FBT001 - a thread's one argument
        """Follow the newest job to its end by its stream, or poll it; then the next one."""
        client = _Client(self._served.url, self._failures)
        while not self._over.is_set():
            job_id = self._newest
            if not job_id:
                time.sleep(0.05)
                continue
            if streaming:
                client.stream(f"/v1/jobs/{job_id}/events")
                continue
            seconds, text = client.call("GET", f"/v1/jobs/{job_id}")
            if text is None:
                return
            with self._lock:
                self._polls.append(seconds)
            time.sleep(0.5)

    def _look(self) -> None:
        """A dashboard page, and how many have ended."""
        client = _Client(self._served.url, self._failures)
        while not self._over.wait(1):
            for path in DASHBOARD:
                if client.call("GET", path)[1] is None:
                    return


class _Client:
    """A keep-alive connection of one thread."""

    def __init__(self, url: str, failures: list[str]) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        self._used = time.monotonic()
        self._failures = failures

    def call(self, method: str, path: str, body: str | None = None) -> tuple[float, bytes | None]:
        """Seconds of a call and its answer's body; None where it failed, which is noted."""
        if time.monotonic() - self._used > IDLE_SECONDS:
            self._connection.close()  # the gateway closes what is idle; the next call opens it
        began = time.perf_counter()
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            self._connection.request(method, path, body, headers)
            answer = self._connection.getresponse()
            text = answer.read()
            self._used = time.monotonic()
        except (OSError, http.client.HTTPException) as error:
            self._failures.append(f"{method} {path}: {error!r}")
            return 0.0, None
        if answer.status >= 300:
            self._failures.append(f"{method} {path}: {answer.status} {text[:200]!r}")
            return 0.0, None
        return time.perf_counter() - began, text

    def stream(self, path: str) -> None:
        """Read an event stream to its end."""
        self.call("GET", path)


def _ms(seconds: list[float]) -> tuple[float, float]:
    if not seconds:
        return float("nan"), float("nan")
    return percentile(seconds, 0.5) * 1000, percentile(seconds, 0.99) * 1000


def _line(values: tuple[object, ...]) -> str:
    shown = [number(one) if isinstance(one, float) else str(one) for one in values]
    return "".join(text.rjust(14) for text in shown)


def main() -> int:
    """Read the flags, run, hold the last tenth against the first."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--watchers", type=int, default=50)
    wanted = parser.parse_args()
    if wanted.jobs < 10:
        parser.error("at least 10 jobs, one for each tenth")
    print(_line(tuple(one.name for one in fields(Tenth))))
    with Lab(Sizes()) as lab, lab.engine() as engine, lab.gateway(engine.url) as served:
        tenths = Soak(served, jobs=wanted.jobs, watchers=wanted.watchers).run()
    first, last = tenths[0], tenths[-1]
    print()
    for one in fields(Tenth)[2:]:
        before, after = float(getattr(first, one.name)), float(getattr(last, one.name))
        print(f"{one.name:16} first {number(before):>9}  last {number(after):>9}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
