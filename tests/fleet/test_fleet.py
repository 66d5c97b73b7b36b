"""Two workers and two API processes on one PostgreSQL server, and what is done to them."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos.processes import HTTP, until
from tests.fleet.campaign import Campaign
from tests.fleet.processes import Api, Worker
from tests.postgres import Server

LEADS = "this process sweeps"


@dataclass
class Fleet:
    server: Server
    database: str
    a: Api
    b: Api
    workers: list[Worker]

    def long_dance(self, key: str) -> str:
        """A job that samples for about four seconds."""
        job_id = self.a.submit(
            key, workflow="steadydancer", prompt="dancing", frames=5, mode="quality", steps=40
        )
        assert job_id is not None
        return job_id

    def engines_of(self, job_id: str) -> list[str]:
        """The engines of its attempts, in order."""
        with self.server.connect(self.database) as store:
            query = "SELECT engine FROM attempt WHERE job_id = %s ORDER BY number"
            return [row[0] for row in store.execute(query, [job_id]).fetchall()]

    def runner_of(self, job_id: str) -> Worker:
        """The worker in whose engine the job samples."""
        until(lambda: self.b.job(job_id)["progress"]["step"], what="the job samples")
        name = self.engines_of(job_id)[-1].partition("/")[0]
        return next(worker for worker in self.workers if worker.name == name)


@pytest.fixture(scope="module")
def fleet(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("fleet")
    database = server.create()
    url = server.url(database)
    a, b = (Api(directory / name, url) for name in ("a", "b"))
    workers = [Worker(directory / name, url, name, step="0.1") for name in ("one", "two")]
    with ExitStack() as stack:
        for worker in workers:
            worker.engine.start()
            stack.callback(worker.engine.kill)
        for member in (a, b, *workers):  # all at once: one of them makes the schema
            stack.callback(member.kill)
            member.launch()
        for member in (a, b, *workers):
            member.wait()
        yield Fleet(server, database, a, b, workers)


def test_every_api_process_tells_of_every_job(fleet: Fleet) -> None:
    uploads = fleet.a.upload()
    with ThreadPoolExecutor(2) as pool:
        tries = [pool.submit(api.submit, "same", uploads=uploads) for api in (fleet.a, fleet.b)]
        ids = {one.result() for one in tries}
    assert len(ids) == 1
    job_id = ids.pop()
    assert job_id is not None
    kinds = [event["type"] for event in fleet.b.events(job_id)]  # a stream, to the job's end
    assert kinds[0] == "job.queued"
    assert kinds[-1] == "job.succeeded"
    second = fleet.b.submit("second", uploads=uploads)
    polled = HTTP.get(f"{fleet.a.url}/v1/jobs/{second}", params={"wait": 30}, timeout=40).json()
    assert polled["status"] in {"running", "succeeded"}
    assert fleet.a.ended(str(second))["status"] == "succeeded"
    assert fleet.b.video(str(second)) == fleet.a.video(str(second))


def test_a_job_is_canceled_through_any_api_process(fleet: Fleet) -> None:
    job_id = fleet.long_dance("to-cancel")
    fleet.runner_of(job_id)
    HTTP.post(f"{fleet.b.url}/v1/jobs/{job_id}/cancel").raise_for_status()
    assert fleet.a.ended(job_id)["status"] == "canceled"


def test_a_worker_that_wakes_after_its_lease_writes_nothing(fleet: Fleet) -> None:
    job_id = fleet.long_dance("frozen")
    frozen = fleet.runner_of(job_id)
    frozen.signal(signal.SIGSTOP)
    try:
        ended = fleet.b.ended(job_id)
    finally:
        frozen.signal(signal.SIGCONT)
    assert ended["status"] == "succeeded"
    engines = fleet.engines_of(job_id)
    assert len(engines) == 2
    assert len(set(engines)) == 2
    before, video = fleet.b.events(job_id), fleet.b.video(job_id)
    until(frozen.answers, what="the frozen worker answers")
    until(lambda: "attempt ended" in frozen.tail(), what="it has noticed")
    assert fleet.b.job(job_id) == ended
    assert fleet.b.events(job_id) == before
    assert fleet.b.video(job_id) == video
    assert [event["type"] for event in before].count("job.succeeded") == 1


def test_a_worker_that_is_stopped_gives_its_job_away_uncounted(fleet: Fleet) -> None:
    job_id = fleet.long_dance("given-away")
    stopped = fleet.runner_of(job_id)
    stopped.stop()
    try:
        ended = fleet.b.ended(job_id)
        assert ended["status"] == "succeeded"
        assert len(set(fleet.engines_of(job_id))) == 2
        losses = [event["data"] for event in fleet.b.events(job_id) if "loss" in event["data"]]
        assert [(one["loss"], one["counted"]) for one in losses] == [("stopped-by-us", False)]
        queue = HTTP.get(f"{stopped.engine.url}/queue").json()
        assert queue == {"queue_running": [], "queue_pending": []}
    finally:
        stopped.start()


def test_a_job_that_kills_engines_stops(fleet: Fleet) -> None:
    engines = [worker.engine for worker in fleet.workers]
    honest = [engine.arguments for engine in engines]
    for engine in engines:
        engine.arguments = [*engine.arguments, "--misbehave", "die"]
        engine.kill()
        engine.start()
    job_id = str(fleet.a.submit("poison"))

    def ended() -> bool:
        for engine in engines:
            if not engine.alive:
                engine.start()
        return bool(fleet.b.job(job_id)["finished_at"])

    try:
        until(ended, what="the job is given up")
        job = fleet.b.job(job_id)
        assert job["status"] == "failed"
        assert job["attempt"] == 2
    finally:
        for engine, arguments in zip(engines, honest, strict=True):
            engine.arguments = arguments
            engine.kill()
            engine.start()


def test_when_the_leader_dies_another_process_leads(fleet: Fleet) -> None:
    apis = [fleet.a, fleet.b]

    def leads(api: Api) -> bool:
        return LEADS in api.log.read_text(errors="replace")

    leader = next(api for api in apis if leads(api))
    other = next(api for api in apis if api is not leader)
    assert not leads(other)
    leader.kill()
    until(lambda: leads(other), what="the other one leads")
    leader.start()


def test_a_greedy_key_does_not_keep_another_waiting(fleet: Fleet) -> None:
    def made(name: str, **by: str) -> dict[str, str]:
        body = {"name": name, "scopes": ["submit", "read", "admin"]}
        answer = HTTP.post(f"{fleet.a.url}/v1/keys", json=body, headers=by)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    greedy = made("greedy")
    by_greedy = {"Authorization": f"Bearer {greedy['key']}"}
    modest = made("modest", **by_greedy)
    engines = [worker.engine for worker in fleet.workers]
    for engine in engines:
        engine.misbehave("hang", times=1)
    try:
        jobs = [
            str(fleet.a.submit(f"greedy-{n}", caller=greedy["key"], frames=5)) for n in range(14)
        ]
        late = str(fleet.b.submit("modest", caller=modest["key"], frames=5))
        for engine in engines:
            engine.behave()

        def claimed() -> list[str]:
            query = "SELECT job_id FROM attempt WHERE job_id = ANY(%s) ORDER BY claimed_at"
            with fleet.server.connect(fleet.database) as store:
                return [row[0] for row in store.execute(query, [[*jobs, late]]).fetchall()]

        order = until(lambda: len(claimed()) == 15 and claimed(), what="all were claimed")
        assert order.index(late) <= 6, "of each worker's two in hand, and one more"
    finally:
        for key in (modest, greedy):
            HTTP.delete(f"{fleet.a.url}/v1/keys/{key['id']}", headers=by_greedy)


def test_random_faults_lose_nothing_and_double_nothing(server: Server, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    campaign = Campaign(tmp_path, server, jobs=10, seed=seed, workers=2, kill_database=False)
    report = campaign.run()
    assert report.ok, (seed, *report.lines(), *report.lost, *report.doubled, *report.not_ended)
    assert report.jobs == 10
