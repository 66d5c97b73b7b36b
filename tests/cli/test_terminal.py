"""The views that stay up, on a terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from app import wire
from app.cli.live import told
from app.client import GatewayClient, JobRequest
from tests.chaos.processes import until
from tests.livekit import FILES, Live, environment


class Terminal:
    """A command whose three streams are a terminal."""

    def __init__(self, *words: str, url: str, command: list[str] | None = None) -> None:
        self._ours, theirs = pty.openpty()
        self.text = ""
        self.process = subprocess.Popen(
            command or [sys.executable, "-m", "app.cli", *words],
            env=environment(TERM="xterm", COLUMNS="140", LINES="40", STEADYDANCER_URL=url),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        os.set_blocking(self._ours, False)

    def shows(self, words: str) -> bool:
        try:
            while data := os.read(self._ours, 65_536):
                self.text += data.decode(errors="replace")
        except (BlockingIOError, OSError):
            pass
        return words in self.text

    def ended(self) -> bool:
        self.shows("")
        return self.process.poll() is not None

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@pytest.fixture
def waiting(gateway: Live) -> Iterator[wire.Job]:
    """A job that waits until it is let go."""
    with GatewayClient(gateway.url) as client:
        client.drain()
        try:
            yield client.submit(JobRequest(workflow="smoke", request={"frames": 5}), files=FILES)
        finally:
            client.resume()


def test_the_view_of_the_whole_stays_up_until_ctrl_c(gateway: Live, waiting: wire.Job) -> None:
    terminal = Terminal("status", url=gateway.url)
    try:
        until(lambda: terminal.shows(waiting.id), what="the job is shown")
        assert "DRAINING" in terminal.text
        with GatewayClient(gateway.url) as client:
            client.resume()
            client.wait(waiting.id)
        until(lambda: terminal.shows("No job is waiting"), what="the job is gone")
        terminal.process.send_signal(signal.SIGINT)
        until(terminal.ended, what="the view ends")
        assert terminal.process.returncode == 0
    finally:
        terminal.close()


def test_the_view_of_the_whole_is_printed_once_into_a_pipe_of_a_terminal(gateway: Live) -> None:
    command = f"{sys.executable} -m app.cli status | cat"
    terminal = Terminal(url=gateway.url, command=["sh", "-c", command])
    try:
        until(terminal.ended, seconds=30, what="it ends by itself")
        assert terminal.shows("admission:")
    finally:
        terminal.close()


@pytest.mark.parametrize("which", ["one", "all"])
def test_watching_shows_a_job_to_its_end(gateway: Live, waiting: wire.Job, which: str) -> None:
    terminal = Terminal("watch", *((waiting.id,) if which == "one" else ()), url=gateway.url)
    try:
        until(lambda: terminal.shows("waiting for"), what="the job is shown")
        with GatewayClient(gateway.url) as client:
            client.resume()
        until(terminal.ended, what="the watching ends")
        assert terminal.process.returncode == 0
        assert "succeeded" in terminal.text
    finally:
        terminal.close()


def event(kind: wire.EventType, **data: object) -> wire.Event:
    return wire.Event.model_validate(
        {"id": 1, "job_id": "j", "type": kind, "at": "2026-01-01T00:00:00Z", "data": data}
    )


def test_events_move_the_job_that_is_shown(waiting: wire.Job) -> None:
    job = told(waiting, event("job.phase", phase="waiting_for_engine", reason="it is away"))
    assert (job.phase, job.reason) == ("waiting_for_engine", "it is away")
    job = told(job, event("job.running", attempt=1))
    assert (job.status, job.reason) == ("running", None)
    job = told(job, event("job.progress", fraction=0.5, step=2, steps=4, node="Sampler"))
    assert (job.progress.fraction, job.progress.step, job.progress.steps) == (0.5, 2, 4)
    assert told(job, event("job.warning", detail="x")) == job
    assert told(job, event("job.failed", error={})).status == "failed"
    assert told(job, event("job.queued", reason="lost")).status == "queued"
