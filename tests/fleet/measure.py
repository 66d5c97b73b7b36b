"""What a fleet costs its database: `python -m tests.fleet.measure`.

Jobs without work go through 1, 2 and 4 workers on this machine; the database counts what they ask
of it. From these costs fleets of up to 1,000 pods are then simulated. Every process shares this
machine's cores, so that the throughput is this machine's; statements and commits are anybody's.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.chaos.campaign import CALM
from tests.chaos.processes import until
from tests.fleet.processes import Api, Worker
from tests.fleet.simulation import Load, simulate
from tests.postgres import Server, running_postgres

IDLE_SECONDS = 10.0


@dataclass(frozen=True)
class Counted:
    """What the database has done so far."""

    commits: int
    statements: int


@dataclass(frozen=True)
class Costs:
    """What was measured with one number of workers.

    Attributes:
        commits_a_job: Without those of idle processes, as `statements_a_job`.
        idle_commits: Of one process in a second, as `idle_statements`.
        seconds_a_statement: While one job ran at a time: what waits for a core is in it else.
    """

    workers: int
    jobs: int
    seconds: float
    claims: list[float]
    commits_a_job: float
    statements_a_job: float
    idle_commits: float
    idle_statements: float
    seconds_a_statement: float

    def line(self) -> str:
        ordered = [1000 * seconds for seconds in sorted(self.claims)]
        middle, late = statistics.median(ordered), ordered[int(len(ordered) * 0.95)]
        return (
            f"| {self.workers} | {self.jobs / self.seconds:.1f} "
            f"| {middle:.0f} / {late:.0f} ms "
            f"| {self.statements_a_job:.0f} / {self.commits_a_job:.0f} "
            f"| {self.idle_statements:.1f} / {self.idle_commits:.1f} |"
        )


def counted(server: Server, database: str) -> Counted:
    with server.connect("postgres") as store:
        commits = store.execute(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = %s", [database]
        ).fetchone()
    with server.connect(database) as store:
        statements = store.execute(
            "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements s"
            " JOIN pg_database d ON d.oid = s.dbid WHERE d.datname = %s",
            [database],
        ).fetchone()
    assert commits is not None
    assert statements is not None
    return Counted(int(commits[0]), int(statements[0]))


def busy_seconds(server: Server, database: str) -> float:
    """Seconds that the database has spent in statements."""
    with server.connect(database) as store:
        row = store.execute(
            "SELECT coalesce(sum(total_exec_time), 0) / 1000 FROM pg_stat_statements s"
            " JOIN pg_database d ON d.oid = s.dbid WHERE d.datname = %s",
            [database],
        ).fetchone()
    assert row is not None
    return float(row[0])


def measure(directory: Path, server: Server, *, workers: int, jobs: int) -> Costs:
    database = server.create()
    with server.connect(database) as store:
        store.execute("CREATE EXTENSION pg_stat_statements")
    url = server.url(database)
    settings = {**CALM, "GATEWAY_WORKER_LEASE_SECONDS": "30"}
    api = Api(directory / "api", url, **settings)
    pods = [Worker(directory / f"w{n}", url, f"w{n}", **settings) for n in range(workers)]
    with ExitStack() as stack:
        for pod in pods:
            pod.engine.start()
            stack.callback(pod.engine.kill)
        api.start()
        stack.callback(api.kill)
        for pod in pods:
            stack.callback(pod.kill)
            pod.launch()
        for pod in pods:
            pod.wait()
        uploads = api.upload()
        first = api.submit("first", uploads=uploads)
        api.ended(str(first))
        time.sleep(2)
        before = counted(server, database)
        time.sleep(IDLE_SECONDS)
        idle = counted(server, database)
        began = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: api.submit(f"job-{n}", uploads=uploads), range(jobs)))

        def ended() -> bool:
            with server.connect(database) as store:
                return not store.execute(
                    "SELECT 1 FROM job WHERE finished_at IS NULL LIMIT 1"
                ).fetchone()

        until(ended, seconds=600, what="every job ends")
        seconds = time.monotonic() - began
        after = counted(server, database)
        worked = busy_seconds(server, database)
        claims = latency(api, server, database, uploads)
        worked = busy_seconds(server, database) - worked
        alone = counted(server, database).statements - after.statements
    every_idle = (idle.commits - before.commits) / IDLE_SECONDS
    idle_statements = (idle.statements - before.statements) / IDLE_SECONDS
    # What idle processes would have asked meanwhile is no part of the jobs.
    statements = after.statements - idle.statements - idle_statements * seconds
    commits = after.commits - idle.commits - every_idle * seconds
    return Costs(
        workers=workers,
        jobs=jobs,
        seconds=seconds,
        claims=claims,
        commits_a_job=max(commits, 0) / jobs,
        statements_a_job=max(statements, 0) / jobs,
        idle_commits=every_idle / (workers + 1),
        idle_statements=idle_statements / (workers + 1),
        seconds_a_statement=worked / max(alone, 1),
    )


def latency(api: Api, server: Server, database: str, uploads: dict[str, str]) -> list[float]:
    """Seconds from a job's submission to its claim, one job at a time, on idle workers."""
    ids = []
    for number in range(15):
        job_id = api.submit(f"alone-{number}", uploads=uploads)
        api.ended(str(job_id))
        ids.append(str(job_id))
    with server.connect(database) as store:
        rows = store.execute(
            "SELECT extract(epoch FROM min(a.claimed_at) - j.created_at)::float FROM job j"
            " JOIN attempt a ON a.job_id = j.id WHERE j.id = ANY(%s) GROUP BY j.id",
            [ids],
        ).fetchall()
    return [max(row[0], 0.0) for row in rows]


def notify_seconds(server: Server) -> float:
    """How long a commit with NOTIFY holds up the others: eight connections commit all they can."""
    database, seconds = server.create(), 4.0

    def commit(_number: int) -> int:
        done, end = 0, time.monotonic() + seconds
        with server.connect(database) as store:
            while time.monotonic() < end:
                store.execute("SELECT pg_notify('measured', '')")
                done += 1
        return done

    with ThreadPoolExecutor(8) as pool:
        return seconds / sum(pool.map(commit, range(8)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--cores", type=int, default=8, help="of the simulated database")
    parser.add_argument("--sync-ms", type=float, default=0.0, help="of its disk, for each commit")
    parser.add_argument("--run-seconds", type=float, nargs="+", default=[60.0, 10.0])
    wanted = parser.parse_args()
    around = os.getloadavg()[0]
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores,"
        f" load {around:.1f}"
    )
    print(
        "| workers | jobs/s | claim p50 / p95 | statements / commits a job |"
        " the same, of an idle process in a second |"
    )
    print("|---|---|---|---|---|")
    costs: list[Costs] = []
    with running_postgres("shared_preload_libraries=pg_stat_statements") as server:
        for workers in wanted.workers:
            with tempfile.TemporaryDirectory() as folder:
                costs.append(measure(Path(folder), server, workers=workers, jobs=wanted.jobs))
            print(costs[-1].line(), flush=True)
        a_commit = notify_seconds(server) + wanted.sync_ms / 1000
    cost = min(one.seconds_a_statement for one in costs)
    print(f"a statement takes {cost * 1000:.2f} ms, a commit with NOTIFY {a_commit * 1000:.2f} ms")
    for seconds in wanted.run_seconds:
        load = Load(
            job_seconds=costs[-1].statements_a_job * cost,
            idle_seconds=costs[-1].idle_statements * cost,
            lock_seconds=costs[-1].commits_a_job * a_commit,
            run_seconds=seconds,
        )
        print(f"\nJobs of {seconds:g} s, a database of {wanted.cores} cores:")
        print("| pods | jobs/s | of ideal | claim p50 / p95 | cores | lock | connections |")
        print("|---|---|---|---|---|---|---|")
        for pods in (10, 100, 300, 1_000):
            print(simulate(load, pods=pods, cores=wanted.cores).line(pods), flush=True)


if __name__ == "__main__":
    main()
