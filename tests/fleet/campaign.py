"""The fleet's fault campaign: `python -m tests.fleet.campaign --jobs 1000`.

Jobs go in through two API processes while
workers, API processes and the database are killed and frozen at random moments. Then the store is
held against the engines' own counts: nothing lost, nothing completed twice, all ended.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg

from tests.chaos.campaign import CALM, Report
from tests.chaos.processes import until
from tests.fleet.processes import Api, Member, Worker
from tests.postgres import Server, running_postgres

ENDS = {"job.succeeded", "job.failed", "job.canceled"}


class Campaign:
    """One campaign in a directory of its own."""

    def __init__(
        self,
        directory: Path,
        server: Server,
        *,
        jobs: int,
        seed: int,
        workers: int = 4,
        apis: int = 2,
        kill_database: bool = True,
    ) -> None:
        self.random = random.Random(seed)
        self.jobs = jobs
        self.server = server
        self.kill_database = kill_database
        self.database = server.create()
        url = server.url(self.database)
        self.apis = [Api(directory / f"api-{n}", url, **CALM) for n in range(apis)]
        self.workers = [
            Worker(directory / f"worker-{n}", url, f"worker-{n}", **CALM) for n in range(workers)
        ]
        self.accepted: dict[str, str] = {}
        self.report = Report()
        self._submitting = threading.Event()

    def run(self) -> Report:
        with ExitStack() as stack:
            for worker in self.workers:
                worker.engine.start()
                stack.callback(worker.engine.kill)
            self.apis[0].start()  # makes the schema, for all
            for member in (*self.apis, *self.workers):
                stack.callback(member.kill)
                if not member.alive:
                    member.launch()
            for member in (*self.apis, *self.workers):
                member.wait()
            self._attack()
        return self.report

    def _attack(self) -> None:
        uploads = self.apis[0].upload()
        client = threading.Thread(target=self._submit_all, args=(uploads,))
        self._submitting.set()
        client.start()
        try:
            while self._submitting.is_set() or self._open():
                self._fault()
                time.sleep(self.random.uniform(0.0, 0.5))
                if sum(self.report.faults.values()) >= self.jobs:
                    break
            client.join()
            for member in (*self.apis, *self.workers):
                if not member.alive:
                    member.start()
            until(lambda: not self._open(), seconds=300, what="every job ends")
        except AssertionError as error:
            self.report.broken.append(str(error))
        finally:
            self._submitting.clear()
            client.join()
            self._judge()

    # --- the clients ---------------------------------------------------------------------------

    def _submit_all(self, uploads: dict[str, str]) -> None:
        chooser = random.Random(self.random.random())
        try:
            for number in range(self.jobs):
                job_id = None
                while job_id is None and self._submitting.is_set():
                    api = chooser.choice(self.apis)
                    job_id = api.submit(f"job-{number}", uploads=uploads)
                    if job_id is None:
                        time.sleep(0.05)
                if job_id is not None:
                    self.accepted[f"job-{number}"] = job_id
        finally:
            self._submitting.clear()

    # --- the faults ----------------------------------------------------------------------------

    def _fault(self) -> None:
        faults: list[tuple[str, Callable[[], None]]] = [
            ("worker killed", lambda: self._restart(self.random.choice(self.workers))),
            ("worker frozen", lambda: self._freeze(self.random.choice(self.workers))),
            ("engine killed", lambda: self._restart_engine(self.random.choice(self.workers))),
            ("api killed", lambda: self._restart(self.random.choice(self.apis))),
        ]
        if self.kill_database and self.random.random() < 0.1:
            faults = [("database killed", self._restart_database)]
        name, fault = self.random.choice(faults)
        self.report.faults[name] += 1
        fault()

    def _restart(self, member: Member) -> None:
        member.kill()
        member.start()

    def _freeze(self, member: Member) -> None:
        """Longer than its lease, now and then: its jobs are then given away, and it wakes up."""
        member.signal(signal.SIGSTOP)
        time.sleep(self.random.choice([0.3, 1.0, 6.0]))
        member.signal(signal.SIGCONT)

    def _restart_engine(self, worker: Worker) -> None:
        worker.engine.kill()
        time.sleep(self.random.uniform(0, 0.3))
        worker.engine.start()

    def _restart_database(self) -> None:
        self.server.kill()
        time.sleep(self.random.uniform(0, 1))
        self.server.start()

    # --- the judgement -------------------------------------------------------------------------

    def _rows(self, query: str) -> list[Any]:
        with self.server.connect(self.database) as store:
            return store.execute(query).fetchall()

    def _open(self) -> bool:
        try:
            return bool(self._rows("SELECT 1 FROM job WHERE finished_at IS NULL LIMIT 1"))
        except psycopg.OperationalError:
            return True

    def _judge(self) -> None:
        report = self.report
        jobs = dict(self._rows("SELECT id, status FROM job"))
        events: dict[str, list[str]] = {}
        for job_id, kind in self._rows("SELECT job_id, type FROM job_event ORDER BY id"):
            events.setdefault(job_id, []).append(kind)
        videos = Counter(
            row[0] for row in self._rows("SELECT job_id FROM artifact WHERE name = 'video'")
        )
        attempts = {row[0] for row in self._rows("SELECT id FROM attempt")}
        report.jobs = len(self.accepted)
        report.statuses = Counter(jobs.values())
        report.lost = [job_id for job_id in self.accepted.values() if job_id not in jobs]
        if len(jobs) != self.jobs:
            report.broken.append(f"{len(jobs)} jobs in the store for {self.jobs} keys")
        for job_id, status in jobs.items():
            ends = [kind for kind in events[job_id] if kind in ENDS]
            if f"job.{status}" not in ENDS:
                report.not_ended.append(job_id)
            elif ends != [f"job.{status}"]:
                report.doubled.append(f"{job_id}: {ends}")
            if (status == "succeeded") != (videos[job_id] == 1):
                report.broken.append(f"{job_id}: {status} with {videos[job_id]} videos")
            if status != "succeeded":
                report.broken.append(f"{job_id}: {status}, and nobody asked for it")
        runs: Counter[str] = Counter()
        for worker in self.workers:
            path = worker.engine.directory / "standin-runs.jsonl"
            entries = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
            runs += Counter(one["prompt_id"] for one in entries if one["event"] == "started")
        report.broken += [f"prompt {one} is no attempt's" for one in set(runs) - attempts]
        report.doubled += [f"prompt {one} started {n} times" for one, n in runs.items() if n > 1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--apis", type=int, default=2)
    parser.add_argument("--seed", type=int, default=None)
    wanted = parser.parse_args()
    seed = wanted.seed if wanted.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"seed       {seed}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, running_postgres() as server:
        report = Campaign(
            Path(folder),
            server,
            jobs=wanted.jobs,
            seed=seed,
            workers=wanted.workers,
            apis=wanted.apis,
        ).run()
    print("\n".join(report.lines()))
    print(f"took       {time.monotonic() - began:.0f} s")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
