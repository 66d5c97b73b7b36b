"""An engine that misbehaves in every way it knows, and a gateway that ends each job rightly."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.chaos.processes import HTTP, Engine, Gateway, until

FAST = {"GATEWAY_INTERRUPT_SECONDS": "5"}
HASTY = {**FAST, "GATEWAY_STALL_SECONDS": "5", "GATEWAY_STALL_LOADING_SECONDS": "5"}
"""Longer than a slow machine keeps an honest engine from speaking."""


@dataclass(frozen=True)
class Pair:
    """An engine and a gateway that one test after another may use: each leaves both idle."""

    engine: Engine
    gateway: Gateway


def started_engine(directory: Path) -> Engine:
    engine = Engine(directory, "--no-work", "--step-seconds", "0.1", "--probe-nodes")
    engine.start()
    return engine


@contextmanager
def started_pair(directory: Path, settings: Mapping[str, str]) -> Iterator[Pair]:
    engine = started_engine(directory / "engine")
    gateway = Gateway(directory / "gateway", engine.url, **settings)
    gateway.start()
    try:
        yield Pair(engine, gateway)
    finally:
        gateway.kill()
        engine.kill()


@pytest.fixture(scope="module")
def shared_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with started_pair(tmp_path_factory.mktemp("faults"), FAST) as pair:
        yield pair


@pytest.fixture(scope="module")
def shared_hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with started_pair(tmp_path_factory.mktemp("hasty"), HASTY) as pair:
        yield pair


@pytest.fixture
def pair(shared_pair: Pair) -> Iterator[Pair]:
    """Two that live on: for faults that end with the job."""
    yield shared_pair
    shared_pair.engine.behave()


@pytest.fixture
def hasty(shared_hasty: Pair) -> Iterator[Pair]:
    """The same with a gateway that soon calls silence a stall."""
    yield shared_hasty
    shared_hasty.engine.behave()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """The test's own."""
    engine = started_engine(tmp_path / "engine")
    yield engine
    engine.kill()


@pytest.fixture
def gateway(engine: Engine, tmp_path: Path) -> Iterator[Gateway]:
    """The test's own."""
    gateway = Gateway(tmp_path / "gateway", engine.url, **FAST)
    gateway.start()
    yield gateway
    gateway.kill()


def test_a_file_larger_than_the_engine_takes_fails_one_job_and_is_refused_after(
    tmp_path: Path,
) -> None:
    engine = Engine(tmp_path / "engine", "--no-work", "--max-upload-size", "0.02")
    engine.start()
    gateway = Gateway(tmp_path / "gateway", engine.url)
    gateway.start()
    try:
        failed = gateway.ended(dance(gateway, "first"))
        assert failed["error"]["type"] == "bad-media"
        assert "--max-upload-size" in failed["error"]["detail"]
        again = HTTP.post(f"{gateway.url}/v1/jobs/{failed['id']}/rerun", json={})
        assert (again.status_code, again.json()["code"]) == (413, "payload-too-large")
        assert "20,971" in again.json()["detail"]
        assert {error["pointer"] for error in again.json()["errors"]} == {"/overrides"}
    finally:
        gateway.kill()
        engine.kill()


def losses(gateway: Gateway, job_id: str) -> list[str]:
    return [event["data"]["loss"] for event in gateway.events(job_id) if "loss" in event["data"]]


def dance(gateway: Gateway, key: str, **more: Any) -> str:
    unique = f"{key}-{uuid4()}"
    job_id = gateway.submit(unique, workflow="steadydancer", prompt="dancing", frames=5, **more)
    assert job_id is not None
    return job_id


def long_dance(gateway: Gateway, key: str) -> str:
    """A job that samples for about four seconds."""
    return dance(gateway, key, mode="quality", steps=40)


def cancel(gateway: Gateway, job_id: str) -> dict[str, Any]:
    answer = HTTP.post(f"{gateway.url}/v1/jobs/{job_id}/cancel")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("reject", "graph-refused"),
        ("node_errors_200", "graph-refused"),
        ("raise", "execution-error"),
    ],
)
def test_what_cannot_succeed_fails_once_and_says_why(pair: Pair, mode: str, kind: str) -> None:
    fails_once(pair.engine, pair.gateway, mode, kind)


def test_a_cuda_fault_is_not_tried_again(engine: Engine, gateway: Gateway) -> None:
    fails_once(engine, gateway, "cuda_fault", "cuda-fault")


def fails_once(engine: Engine, gateway: Gateway, mode: str, kind: str) -> None:
    engine.misbehave(mode, times=1)
    job = gateway.ended(dance(gateway, mode))
    assert job["status"] == "failed"
    assert job["error"]["type"] == kind
    assert job["attempt"] == 1
    assert job["error"]["advice"]
    assert "/" not in job["error"]["detail"].replace("n/a", ""), "a path of the server"


@pytest.mark.parametrize(
    ("mode", "loss"),
    [
        ("out_of_memory", "out-of-memory"),
        ("hang", "engine-stalled"),
    ],
)
def test_what_may_succeed_is_tried_again_and_succeeds(hasty: Pair, mode: str, loss: str) -> None:
    hasty.engine.misbehave(mode, times=1)
    job_id = dance(hasty.gateway, mode)
    job = hasty.gateway.ended(job_id)
    assert job["status"] == "succeeded", job["error"]
    assert losses(hasty.gateway, job_id) == [loss]
    assert job["attempt"] == 2
    assert hasty.gateway.video(job_id)


@pytest.mark.parametrize("mode", ["broken_file", "missing_file"])
def test_a_run_without_a_whole_video_is_made_again(pair: Pair, mode: str) -> None:
    pair.engine.misbehave(mode, times=1)
    job_id = pair.gateway.submit(f"{mode}-{uuid4()}")
    assert job_id is not None
    job = pair.gateway.ended(job_id)
    assert job["status"] == "succeeded", job["error"]
    assert losses(pair.gateway, job_id) == ["output-missing"]
    assert pair.gateway.video(job_id)


def test_a_prompt_that_the_engine_forgot_in_mid_run_is_run_again(pair: Pair) -> None:
    job_id = long_dance(pair.gateway, "forget")
    until(lambda: pair.gateway.job(job_id)["started_at"], what="it runs")
    pair.engine.misbehave("forget", times=1)
    job = pair.gateway.ended(job_id)
    assert job["status"] == "succeeded", job["error"]
    assert set(losses(pair.gateway, job_id)) == {"engine-forgot"}


@pytest.mark.parametrize("mode", ["drop_socket", "silent_socket", "lose_answer"])
def test_what_only_seems_wrong_costs_no_attempt(pair: Pair, mode: str) -> None:
    before = pair.engine.stats()["prompts"]
    pair.engine.misbehave(mode, times=1)
    job_id = dance(pair.gateway, mode)
    job = pair.gateway.ended(job_id)
    assert job["status"] == "succeeded", job["error"]
    assert job["attempt"] == 1
    prompts = pair.engine.stats()["prompts"]
    started = [prompt["started"] for name, prompt in prompts.items() if name not in before]
    assert started == [1], "a lost answer was sent again blindly"


@pytest.mark.parametrize(
    ("mode", "kind", "attempts"),
    [
        ("out_of_memory", "out-of-memory", 2),
        ("broken_file", "output-missing", 3),
        ("hang", "engine-stalled", 2),
    ],
)
def test_a_loop_ends(hasty: Pair, mode: str, kind: str, attempts: int) -> None:
    hasty.engine.misbehave(mode, times=50)
    job = hasty.gateway.ended(dance(hasty.gateway, mode))
    assert job["error"]["type"] == kind
    assert job["attempt"] == attempts


def runs(gateway: Gateway, job_id: str, attempt: int) -> bool:
    job = gateway.job(job_id)
    return job["attempt"] == attempt and job["started_at"] is not None


def test_an_engine_that_dies_twice_under_a_job_quarantines_it(
    engine: Engine, gateway: Gateway
) -> None:
    job_id = long_dance(gateway, "poison")
    for number in (1, 2):
        until(lambda n=number: runs(gateway, job_id, n), what="the job runs")  # type: ignore[misc]
        engine.kill()
        engine.start()
    job = gateway.ended(job_id)
    assert job["error"]["type"] == "poison-job"
    assert not job["error"]["retryable"]


def test_a_staged_prompt_that_never_began_does_not_count_when_the_engine_dies(
    engine: Engine, gateway: Gateway
) -> None:
    engine.misbehave("hang", times=1)
    first = dance(gateway, "first")
    until(lambda: gateway.job(first)["started_at"], what="the first runs")
    second = dance(gateway, "second")
    until(lambda: gateway.job(second)["phase"] == "staged", what="the second is staged")
    assert gateway.job(second)["started_at"] is None
    engine.kill()
    engine.start()
    assert gateway.ended(second)["status"] == "succeeded"
    assert losses(gateway, second) == ["not-started"]
    assert gateway.ended(first)["status"] == "succeeded"


def test_cancel_ends_a_job_wherever_it_is_and_touches_no_other(
    engine: Engine, gateway: Gateway
) -> None:
    engine.misbehave("hang", times=1)
    running = dance(gateway, "running")
    until(lambda: gateway.job(running)["started_at"], what="the first runs")
    staged = dance(gateway, "staged")
    until(lambda: gateway.job(staged)["phase"] == "staged", what="the second is staged")
    queued = dance(gateway, "queued")
    last = dance(gateway, "last")

    assert cancel(gateway, queued)["status"] == "canceled"
    assert cancel(gateway, staged)["status"] == "canceled"
    assert gateway.job(running)["status"] == "running", "somebody else's cancel hit it"
    assert cancel(gateway, running)["status"] == "canceled"
    assert cancel(gateway, running)["status"] == "canceled", "canceling again changed something"
    assert gateway.ended(last)["status"] == "succeeded"
    assert _ran(engine) == 1, "a canceled prompt ran to its end"


def test_a_run_that_takes_too_long_is_stopped_in_the_engine_too(
    engine: Engine, gateway: Gateway
) -> None:
    job_id = dance(gateway, "slow", mode="quality", steps=50, max_run_seconds=0.5)
    assert gateway.ended(job_id)["error"]["type"] == "deadline-exceeded"
    after = dance(gateway, "after")
    assert gateway.ended(after)["status"] == "succeeded"
    assert _ran(engine) == 1, "the overdue run went on"


def test_a_wait_that_takes_too_long_ends_with_the_deadline(
    engine: Engine, gateway: Gateway
) -> None:
    HTTP.post(f"{gateway.url}/v1/system/drain").raise_for_status()
    job_id = dance(gateway, "waits", max_queue_seconds=0.2)
    assert gateway.ended(job_id)["error"]["type"] == "deadline-exceeded"
    assert _ran(engine) == 0
    httpx.post(f"{gateway.url}/v1/system/resume", timeout=5).raise_for_status()
    engine.misbehave("hang", times=1)
    dance(gateway, "hangs")
    behind = dance(gateway, "behind", max_queue_seconds=3)
    until(lambda: gateway.job(behind)["phase"] in {"staged", None}, seconds=20, what="it is staged")
    job = gateway.ended(behind)
    assert (job["error"]["type"], job["started_at"]) == ("deadline-exceeded", None)


def test_a_frozen_gateway_goes_on_where_the_job_is_by_then(
    engine: Engine, gateway: Gateway
) -> None:
    job_id = long_dance(gateway, "frozen")
    until(lambda: gateway.job(job_id)["started_at"], what="it runs")
    gateway.signal(signal.SIGSTOP)
    until(lambda: _ran(engine) == 1, what="the engine ends the run alone")
    gateway.signal(signal.SIGCONT)
    job = gateway.ended(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 1), gateway.events(job_id)


def test_a_frozen_engine_is_not_taken_for_dead(engine: Engine, gateway: Gateway) -> None:
    job_id = long_dance(gateway, "frozen")
    until(lambda: gateway.job(job_id)["started_at"], what="it runs")
    engine.signal(signal.SIGSTOP)
    time.sleep(0.5)  # the length of the freeze, not a wait for something
    engine.signal(signal.SIGCONT)
    job = gateway.ended(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 1)


def test_the_metrics_tell_how_attempts_ended(engine: Engine, gateway: Gateway) -> None:
    engine.misbehave("out_of_memory", times=1)
    job_id = dance(gateway, "counted")
    assert gateway.ended(job_id)["status"] == "succeeded"

    def scraped() -> str:
        text = HTTP.get(f"{gateway.url}/metrics").text
        return text if "steadydancer_jobs_finished_total{" in text else ""

    text = until(scraped, what="the end is counted")
    assert 'steadydancer_attempts_lost_total{reason="out-of-memory"} 1.0' in text
    done = 'steadydancer_jobs_finished_total{status="succeeded",workflow="steadydancer"} 1.0'
    assert done in text
    assert 'job_phase_duration_seconds_count{phase="sampling",workflow="steadydancer"}' in text


def test_draining_starts_nothing_and_resuming_goes_on(pair: Pair) -> None:
    ran = _ran(pair.engine)
    drain = HTTP.post(f"{pair.gateway.url}/v1/system/drain")
    assert drain.status_code == 200, drain.text
    try:
        job_id = dance(pair.gateway, "drained")
        ready = HTTP.get(f"{pair.gateway.url}/readyz")
        assert ready.status_code == 503
        assert "drain" in ready.text
        assert pair.gateway.job(job_id)["status"] == "queued"
        assert _ran(pair.engine) == ran
    finally:
        HTTP.post(f"{pair.gateway.url}/v1/system/resume").raise_for_status()
    assert pair.gateway.ended(job_id)["status"] == "succeeded"


def test_a_clean_stop_and_a_start_go_on_with_the_same_attempt(
    engine: Engine, gateway: Gateway
) -> None:
    job_id = long_dance(gateway, "stopped")
    until(lambda: gateway.job(job_id)["started_at"], what="it runs")
    gateway.stop()
    gateway.start()
    job = gateway.ended(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 1)


def _ran(engine: Engine) -> int:
    return sum(prompt["succeeded"] for prompt in engine.stats()["prompts"].values())
