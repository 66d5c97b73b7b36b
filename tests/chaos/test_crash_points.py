"""The gateway dies between every two commits of a job's path, and each time ends it rightly."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.processes import Engine, Gateway, until


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """One engine for all crash points: it outlives every gateway."""
    engine = Engine(tmp_path_factory.mktemp("engine"), "--no-work", "--step-seconds", "0")
    engine.start()
    yield engine  # type: ignore[misc]
    engine.stop()


def run_to_crash(gateway: Gateway, after: int) -> bool:
    """Run one job on a gateway that dies after so many commits; say whether it died."""
    gateway.start(CRASH_AFTER=str(after))
    key = f"crash-{after}"
    job_id = gateway.submit(key) if gateway.alive else None
    if job_id is not None:
        until(
            lambda: not gateway.alive or gateway.job_or_none(job_id) in {"succeeded", "failed"},
            seconds=30,
            what="the gateway dies or ends the job",
        )
    died = not gateway.alive
    gateway.kill()
    gateway.start()
    again = gateway.submit(key)
    assert again is not None, gateway.tail()
    if job_id is not None:
        assert again == job_id, "an answered submission was forgotten"
    job = gateway.ended(again)
    assert job["status"] == "succeeded", job["error"]
    assert gateway.video(again), "a succeeded job without its video"
    kinds = [event["type"] for event in gateway.events(again)]
    assert kinds.count("job.succeeded") == 1
    assert kinds[0] == "job.queued"
    gateway.stop()
    return died


def test_every_crash_point_ends_rightly_and_no_prompt_runs_twice(
    engine: Engine, tmp_path: Path
) -> None:
    jobs = after = 0
    died = True
    while died:
        after += 1
        jobs += 1
        assert after < 60, "the job's path has no end"
        died = run_to_crash(Gateway(tmp_path / str(after), engine.url), after)
    ends = [prompt["ended"] for prompt in engine.stats()["prompts"].values()]
    assert sum(ends) == jobs, "the engine survived each time, so each job ran exactly once"
    assert after > 10, "the hook killed nothing, so this showed nothing"
