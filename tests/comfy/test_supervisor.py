"""The supervisor with real processes: started, watched, replaced, adopted, never doubled."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import httpx
import pytest

from app.comfy import supervisor
from app.comfy.supervisor import Patience, Supervisor, start_time
from tests.ports import free_port

PATIENCE = Patience(start=20, poll=0.02, backoff=0.05, longest_backoff=0.1, stop=5, look=0.05)

SERVER = """
import http.server, os, signal, subprocess, sys
port, what = int(sys.argv[1]), sys.argv[2]
if what == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if what == "parent":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print("grandchild", child.pid, flush=True)
if what == "loud":
    print("x" * 5000, flush=True)
print("secret", os.environ.get("GATEWAY_SECRET"), flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if what == "loud":
            print("y" * 5000, flush=True)
        self.send_response(200)
        self.end_headers()
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


class Kept:
    """A supervisor of a small server, in its own folder."""

    def __init__(
        self,
        directory: Path,
        port: int,
        what: str = "plain",
        patience: Patience = PATIENCE,
        command: Sequence[str] = (),
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log = directory / "child.log"
        self.states: list[str] = []
        self.asked = 0
        self.supervisor = Supervisor(
            name="child",
            command=command or [sys.executable, "-c", SERVER, str(port), what],
            directory=directory,
            is_healthy=self.answers,
            address=("127.0.0.1", port),
            patience=patience,
            on_change=lambda: self.states.append(self.supervisor.state),
        )
        self.running = asyncio.create_task(self.supervisor.run())

    async def killed(self) -> None:
        """End as a gateway ends that is killed: the child is left as it is."""
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)

    async def answers(self) -> bool:
        self.asked += self.supervisor.state == "running"
        async with httpx.AsyncClient(trust_env=False) as client:
            try:
                return (await client.get(self.url, timeout=2)).status_code == 200
            except httpx.HTTPError:
                return False

    async def is_(self, state: str) -> None:
        await until(lambda: self.supervisor.state == state, f"the child is {state}")


async def until(is_so: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(120):
            while not is_so():  # noqa: ASYNC110 - there is no event for a process
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"it never came about that {what}")


class Keep(Protocol):
    """Makes a supervisor and runs it."""

    def __call__(
        self, what: str = ..., patience: Patience = ..., command: Sequence[str] = ...
    ) -> Kept: ...


@pytest.fixture
async def keep(tmp_path: Path, port: int) -> AsyncIterator[Keep]:
    """Starts supervisors; their children are gone afterwards, whatever happened."""
    kept: list[Kept] = []

    def start(
        what: str = "plain", patience: Patience = PATIENCE, command: Sequence[str] = ()
    ) -> Kept:
        kept.append(Kept(tmp_path, port, what, patience, command))
        return kept[-1]

    yield start
    for one in kept:
        await one.supervisor.stop()
        await one.killed()


@pytest.fixture
def port() -> int:
    return free_port()


@asynccontextmanager
async def somebody_else(port: int) -> AsyncIterator[None]:
    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", port):
        yield


async def test_a_child_that_dies_is_started_again(keep: Keep) -> None:
    one = keep()
    await one.is_("running")
    first = one.supervisor.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: one.supervisor.generation == 2, "there is another one")
    await one.is_("running")
    assert one.supervisor.pid != first
    assert "backoff" in one.states


async def test_a_child_that_cannot_live_is_called_unhealthy_and_still_tried(keep: Keep) -> None:
    one = keep(
        patience=Patience(poll=0.02, backoff=0.01, longest_backoff=0.02),
        command=[sys.executable, "-c", "print('no'); raise SystemExit(3)"],
    )
    await one.is_("unhealthy")
    tries = one.supervisor.generation
    await until(lambda: one.supervisor.generation > tries, "it is tried again")
    assert "no" in one.supervisor.log_tail()


async def test_a_program_that_is_not_there_is_said(keep: Keep) -> None:
    one = keep(command=["/there/is/no/such/program"])
    await one.is_("backoff")
    assert one.supervisor.detail is not None
    assert "cannot be started" in one.supervisor.detail


async def test_the_next_gateway_takes_over_the_child_of_one_that_was_killed(keep: Keep) -> None:
    first = keep()
    await first.is_("running")
    pid = first.supervisor.pid
    await first.killed()
    second = keep()
    await second.is_("running")
    assert second.supervisor.pid == pid
    assert {path.name for path in first.log.parent.iterdir()} == {"child.log"}


async def test_a_deaf_child_is_killed_after_its_grace(keep: Keep) -> None:
    one = keep("deaf", Patience(poll=0.02, stop=0.2))
    await one.is_("running")
    pid = one.supervisor.pid
    assert pid is not None
    await one.supervisor.stop()
    assert start_time(pid) is None
    assert one.supervisor.state == "stopped"


async def test_a_child_that_answers_no_more_is_replaced(keep: Keep) -> None:
    one = keep("plain", Patience(poll=0.02, look=0.05, silent=0.5, stop=0.2, backoff=0.05))
    await one.is_("running")
    assert one.supervisor.pid is not None
    os.kill(one.supervisor.pid, signal.SIGSTOP)
    await until(lambda: one.supervisor.generation == 2, "it is replaced")
    await one.is_("running")


async def test_a_child_that_answers_is_left_alone_however_rarely_it_is_asked(keep: Keep) -> None:
    one = keep("plain", Patience(poll=0.02, look=30, silent=0.2))
    await one.is_("running")
    await until(lambda: one.asked > 4, "it was asked for much longer than it may be silent")
    assert one.supervisor.generation == 1


async def test_what_the_child_started_goes_with_it(keep: Keep) -> None:
    one = keep("parent")
    await one.is_("running")
    grandchild = int(one.log.read_text().split("grandchild ")[1].split()[0])
    assert start_time(grandchild) is not None
    assert one.supervisor.pid is not None
    os.kill(one.supervisor.pid, signal.SIGKILL)
    await until(lambda: start_time(grandchild) is None, "the grandchild is gone")


async def test_nothing_is_started_beside_a_stranger_on_its_port(keep: Keep, port: int) -> None:
    async with somebody_else(port):
        one = keep()
        await one.is_("backoff")
        assert one.supervisor.detail is not None
        assert f"Something else listens on 127.0.0.1 port {port}" in one.supervisor.detail
        assert one.supervisor.generation == 0
    await one.is_("running")


async def test_nothing_is_started_after_a_stop_that_comes_while_the_port_is_looked_at(
    keep: Keep,
) -> None:
    one = keep()
    await asyncio.sleep(0)  # now it waits for an answer from the port
    await one.supervisor.stop()
    await asyncio.wait_for(one.running, 5)
    assert one.supervisor.generation == 0


async def test_a_log_is_bounded_while_the_child_writes(
    keep: Keep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_LARGEST_LOG", 50_000)
    one = keep("loud")
    old = tmp_path / "child.old.log"
    await until(old.exists, "the log was cut")
    await until(lambda: one.log.stat().st_size > 5_000, "the child goes on writing")
    assert one.log.stat().st_size < 100_000
    assert b"\0" not in one.log.read_bytes()


async def test_the_gateways_secrets_stay_with_it(
    keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_SECRET", "s3cret")
    one = keep()
    await one.is_("running")
    await until(lambda: "secret" in one.log.read_text(), "the child has said what it sees")
    assert "secret None" in one.log.read_text()
