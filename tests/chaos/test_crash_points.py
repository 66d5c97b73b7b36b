"""The gateway dies between every two commits of a job's path, and each time ends it rightly."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.processes import Engine, Gateway, until

PARTS = 3
"""The points are dealt out to so many tests, which can run at the same time."""

DUE = (
    range(PARTS)
    if os.environ.get("GATEWAY_TEST_ALL") == "1"
    else (int(os.environ["GATEWAY_TEST_DAY"]) % PARTS,)
)
"""Each day has its part, since a start for each point takes minutes; `make chaos` runs them all."""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """One engine for all crash points: it outlives every gateway."""
    engine = Engine(tmp_path / "engine", "--no-work", "--step-seconds", "0")
    engine.start()
    yield engine
    engine.stop()


def run_to_crash(gateway: Gateway, uploads: dict[str, str], *, after: int) -> bool:
    """Run one job on a gateway that dies after so many commits; say whether it died."""
    gateway.start(CRASH_AFTER=str(after))
    job_id = gateway.submit("the-key", uploads=uploads) if gateway.alive else None
    until(
        lambda: not gateway.alive or (job_id and gateway.status(job_id) == "succeeded"),
        what="the gateway dies or ends the job",
    )
    died = not gateway.alive
    gateway.kill()
    gateway.start()
    again = gateway.submit("the-key", uploads=uploads)
    assert again is not None, gateway.tail()
    if job_id is not None:
        assert again == job_id, "an answered submission was forgotten"
    job = gateway.ended(again)
    assert job["status"] == "succeeded", job["error"]
    assert gateway.video(again), "a succeeded job without its video"
    kinds = [event["type"] for event in gateway.events(again)]
    assert kinds.count("job.succeeded") == 1
    assert kinds[0] == "job.queued"
    assert len(gateway.jobs()) == 1, "one submission became two jobs"
    gateway.kill()
    return died


@pytest.mark.parametrize("part", DUE)
def test_every_crash_point_ends_rightly_and_no_prompt_runs_twice(
    engine: Engine, tmp_path: Path, part: int
) -> None:
    template = Gateway(tmp_path / "template", engine.url)
    template.start()
    uploads = template.upload()
    template.stop()
    survived = 0
    for after in range(part + 1, 60, PARTS):
        survived += 1
        directory = tmp_path / str(after)
        shutil.copytree(template.directory, directory)
        if not run_to_crash(Gateway(directory, engine.url), uploads, after=after):
            break
    else:
        pytest.fail("the job's path has no end")
    ends = [prompt["succeeded"] for prompt in engine.stats()["prompts"].values()]
    assert sum(ends) == survived, "the engine survived each time, so each job ran exactly once"
    assert after > 15, "the hook killed too rarely to have met the whole path"
