"""The fault campaign: `python -m tests.chaos.campaign --jobs 200`.

Jobs go in while gateway and engine are killed, frozen and cut off at random moments. Then the
store is held against the engine's own count of runs: nothing lost, nothing doubled, all ended.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.chaos.processes import HTTP, PATIENCE, Engine, Gateway, until

CALM = {
    # The campaign's own kills are no fault of a job: they are not to quarantine it.
    "GATEWAY_POISON_DEATHS": "100000",
    "GATEWAY_MAX_ATTEMPTS": "100000",
    "GATEWAY_MAX_STALLS": "100000",
    "GATEWAY_STALL_SECONDS": "5",
    "GATEWAY_STALL_LOADING_SECONDS": "5",
    "GATEWAY_INTERRUPT_SECONDS": "2",
    "GATEWAY_REQUESTS_PER_MINUTE": "1000000",
}


@dataclass
class Report:
    """What the campaign found; the last four must be empty."""

    jobs: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    not_ended: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not (self.lost or self.doubled or self.not_ended or self.broken)

    def lines(self) -> list[str]:
        return [
            f"jobs       {self.jobs}",
            f"faults     {sum(self.faults.values())}  {dict(self.faults)}",
            f"ended as   {dict(self.statuses)}",
            f"lost       {len(self.lost)}",
            f"doubled    {len(self.doubled)}",
            f"not ended  {len(self.not_ended)}",
            f"broken     {len(self.broken)}  {self.broken[:5]}",
        ]


class Campaign:
    """One campaign in a directory of its own."""

    def __init__(self, directory: Path, *, jobs: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.jobs = jobs
        self.engine = Engine(directory / "engine", "--no-work", "--step-seconds", "0.01")
        self.gateway = Gateway(directory / "gateway", self.engine.url, **CALM)
        self.accepted: dict[str, str] = {}
        self.canceled: set[str] = set()
        self.report = Report()
        self._submitting = threading.Event()

    def run(self) -> Report:
        self.engine.start()
        self.gateway.start()
        uploads = self.gateway.upload()
        client = threading.Thread(target=self._submit_all, args=(uploads,))
        self._submitting.set()
        client.start()
        try:
            while self._submitting.is_set() or self._open_jobs():
                self._fault()
                time.sleep(self.random.uniform(0.0, 0.4))
                if sum(self.report.faults.values()) >= self.jobs * 2:
                    break
            self._calm()
            client.join(PATIENCE)
            until(lambda: not self._open_jobs(), what="every job ends")
        except AssertionError as error:
            self.report.broken.append(str(error))
        finally:
            self._submitting.clear()
            client.join()
            self._judge()
            self.gateway.kill()
            self.engine.kill()
        return self.report

    # --- the client ----------------------------------------------------------------------------

    def _submit_all(self, uploads: dict[str, str]) -> None:
        """A client that never gives up: the same key until it has an answer."""
        chooser = random.Random(self.random.random())
        try:
            for number in range(self.jobs):
                key, priority = f"job-{number}", chooser.randint(-2, 2)
                job_id = None
                while job_id is None and self._submitting.is_set():
                    job_id = self.gateway.submit(key, uploads=uploads, priority=priority)
                    if job_id is None:
                        time.sleep(0.02)
                if job_id is not None:
                    self.accepted[key] = job_id
                    if chooser.random() < 0.05:
                        self._cancel(job_id)
        finally:
            self._submitting.clear()

    def _cancel(self, job_id: str) -> None:
        try:
            HTTP.post(f"{self.gateway.url}/v1/jobs/{job_id}/cancel")
            self.canceled.add(job_id)
        except httpx.HTTPError:
            self.canceled.add(job_id)  # it may have arrived

    def _open_jobs(self) -> list[str]:
        with sqlite3.connect(self.gateway.directory / "gateway.db", timeout=30) as store:
            rows = store.execute("SELECT id FROM job WHERE finished_at IS NULL").fetchall()
        return [row[0] for row in rows]

    # --- the faults ----------------------------------------------------------------------------

    def _fault(self) -> None:
        kind = self.random.choice(
            ["gateway", "gateway", "engine", "both", "socket", "answer", "freeze", "thaw", "forget"]
        )
        self.report.faults[kind] += 1
        match kind:
            case "gateway":
                self.gateway.kill()
                self._start_gateway()
            case "engine":
                self.engine.kill()
                time.sleep(self.random.uniform(0, 0.2))
                self.engine.start()
            case "both":
                self.gateway.kill()
                self.engine.kill()
                first = self.random.random() < 0.5
                (self.engine.start if first else self._start_gateway)()
                (self._start_gateway if first else self.engine.start)()
            case "freeze":
                self.gateway.signal(signal.SIGSTOP)
                time.sleep(self.random.uniform(0, 0.5))
                self.gateway.signal(signal.SIGCONT)
            case "thaw":
                self.engine.signal(signal.SIGSTOP)
                time.sleep(self.random.uniform(0, 0.5))
                self.engine.signal(signal.SIGCONT)
            case "socket":
                self.engine.misbehave("drop_socket", times=1)
            case "answer":
                self.engine.misbehave("lose_answer", times=1)
            case "forget":
                self.engine.misbehave("forget", times=1)

    def _start_gateway(self) -> None:
        self.gateway.start()
        if not self.gateway.alive:
            raise AssertionError(f"the gateway does not start again: {self.gateway.tail()}")

    def _calm(self) -> None:
        if not self.engine.alive:
            self.engine.start()
        if not self.gateway.alive:
            self._start_gateway()

    # --- the judgement -------------------------------------------------------------------------

    def _judge(self) -> None:
        report = self.report
        with sqlite3.connect(self.gateway.directory / "gateway.db", timeout=30) as store:
            jobs = dict(store.execute("SELECT id, status FROM job").fetchall())
            events: dict[str, list[str]] = {}
            for job_id, kind in store.execute("SELECT job_id, type FROM job_event ORDER BY id"):
                events.setdefault(job_id, []).append(kind)
            videos = Counter(
                row[0] for row in store.execute("SELECT job_id FROM artifact WHERE name = 'video'")
            )
            orphans = store.execute(
                "SELECT count(*) FROM artifact LEFT JOIN job ON job.id = artifact.job_id "
                "WHERE job.id IS NULL OR job.status <> 'succeeded'"
            ).fetchone()[0]
            attempts = dict(store.execute("SELECT id, job_id FROM attempt").fetchall())
        report.jobs = len(self.accepted)
        report.statuses = Counter(jobs.values())
        report.lost = [job_id for job_id in self.accepted.values() if job_id not in jobs]
        if len(set(self.accepted.values())) != len(self.accepted):
            report.doubled.append("two keys, one job")
        if len(jobs) != len(self.accepted):
            report.broken.append(f"{len(jobs)} jobs in the store for {len(self.accepted)} keys")
        if orphans:
            report.broken.append(f"{orphans} artifacts of no succeeded job")
        for job_id, status in jobs.items():
            told = events[job_id]
            ends = [
                kind for kind in told if kind in {"job.succeeded", "job.failed", "job.canceled"}
            ]
            if status not in {"succeeded", "failed", "canceled"}:
                report.not_ended.append(job_id)
            elif ends != [f"job.{status}"]:
                report.doubled.append(f"{job_id}: {ends}")
            if told[0] != "job.queued":
                report.broken.append(f"{job_id}: its log begins with {told[0]}")
            if (status == "succeeded") != (videos[job_id] == 1):
                report.broken.append(f"{job_id}: {status} with {videos[job_id]} videos")
            if status == "failed" or (status == "canceled" and job_id not in self.canceled):
                report.broken.append(f"{job_id}: {status}, and nobody asked for it")
        self._judge_engine(attempts)

    def _judge_engine(self, attempts: dict[str, str]) -> None:
        """Every prompt that the engine ran is an attempt of ours, and ran once."""
        path = self.engine.directory / "standin-runs.jsonl"
        runs = Counter(
            entry["prompt_id"]
            for entry in map(json.loads, path.read_text().splitlines())
            if entry["event"] == "started"
        )
        strangers = set(runs) - set(attempts)
        self.report.broken += [f"prompt {one} belongs to no attempt" for one in strangers]
        self.report.doubled += [
            f"prompt {one} started {n} times" for one, n in runs.items() if n > 1
        ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None)
    wanted = parser.parse_args()
    seed = wanted.seed if wanted.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"seed       {seed}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Campaign(Path(folder), jobs=wanted.jobs, seed=seed).run()
    print("\n".join(report.lines()))
    print(f"took       {time.monotonic() - began:.0f} s")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
