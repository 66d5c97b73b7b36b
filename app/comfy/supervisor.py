"""A child process that must always be there: started, watched, restarted, adopted, stopped.

It is started in a session of its own and logs to a file, so that it outlives a gateway that was
killed; the next gateway finds it by a mark in its environment, which it has from its first moment,
and takes it over. So there are never two of it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

log = structlog.get_logger(__name__)

State = Literal["stopped", "starting", "running", "backoff", "unhealthy"]

_MARK = "STEADYDANCER_CHILD"
_NOT_FOR_IT = ("GATEWAY_", "RUNPOD_", "AWS_")
"""What the names of variables begin with that a child is not given."""

_LARGEST_LOG = 16 * 1024 * 1024
_TAIL_BYTES = 32 * 1024
_TAIL_LINES = 200
_LINE_CHARACTERS = 500
_DEAD_SECONDS = 10.0
"""How long SIGKILL may take: a process that waits for a device in the kernel outlives it."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds and counts.

    Attributes:
        start: Longest time until the child answers.
        poll: Time between two looks at it.
        backoff: First wait before a restart; doubled each time.
        longest_backoff: Its cap; restarts go on at this pace.
        unhealthy_after: Failures in a row after which it is called unhealthy.
        settled: A child that lived so long has its failures forgiven.
        stop: Grace between SIGTERM and SIGKILL.
        silent: A child that answered once and then not for so long is replaced.
        look: Time between two questions whether it answers.
    """

    start: float = 600.0
    poll: float = 0.25
    backoff: float = 1.0
    longest_backoff: float = 60.0
    unhealthy_after: int = 5
    settled: float = 60.0
    stop: float = 10.0
    silent: float = 300.0
    look: float = 5.0


def start_time(pid: int) -> int | None:
    """When a living process began, in clock ticks since boot (proc(5), field 22)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    is_zombie = fields[0] in {"Z", "X"}
    return None if is_zombie else int(fields[19])


def marked(mark: str) -> int | None:
    """The living leader of a process group whose environment carries the mark (proc(5))."""
    wanted = f"{_MARK}={mark}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                pid = int(entry.name)
                if os.getpgid(pid) == pid and start_time(pid) is not None:
                    return pid
    return None


class Supervisor:
    """Keeps one child process alive.

    Attributes:
        state: What it is doing.
        generation: Counts the processes; 0 before the first.
        pid: Of the living process, which is also its process group.
    """

    def __init__(
        self,
        *,
        name: str,
        command: Sequence[str],
        directory: Path,
        is_healthy: Callable[[], Awaitable[bool]],
        address: tuple[str, int] | None = None,
        environ: Mapping[str, str] | None = None,
        patience: Patience | None = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; `run` starts the child.

        Args:
            name: For the log and the file names.
            command: What to start.
            directory: Where the log lies.
            is_healthy: Whether the child answers.
            address: Host and port that the child will listen on. While somebody else does, it is
                not started: what answers there would be taken for it.
            environ: Its whole environment; by default `clean_environment()`.
            patience: Seconds and counts.
            on_change: Told when `state` or `generation` changes.
        """
        self.name = name
        self.state: State = "stopped"
        self.detail: str | None = None
        self.generation = 0
        self.pid: int | None = None
        self._command = tuple(command)
        self._log = directory / f"{name}.log"
        self._mark = str(self._log.resolve())
        self._is_healthy = is_healthy
        self._address = address
        self._environ = {
            **(environ if environ is not None else clean_environment()),
            _MARK: self._mark,
        }
        self._patience = patience or Patience()
        self._on_change = on_change
        self._child: subprocess.Popen[bytes] | None = None
        self._started: int | None = None
        self._failures = 0
        self._restart: str | None = None
        self._answered = float("-inf")
        self._wake = asyncio.Event()
        self._stopping = False

    # --- for others ----------------------------------------------------------------------------

    def log_tail(self) -> str:
        """The last lines of the child's log, each cut to a bounded length."""
        try:
            with self._log.open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - _TAIL_BYTES))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        lines = text.splitlines()[-_TAIL_LINES:]
        return "\n".join(line[:_LINE_CHARACTERS] for line in lines)

    def answered(self, generation: int) -> None:
        """Take note that the child answers, which somebody else saw of this generation of it."""
        if generation == self.generation and self._alive():
            self._answered = asyncio.get_running_loop().time()
            if self.state == "starting":
                self._set("running", None)

    async def restart(self, reason: str) -> None:
        """Have the child replaced. Returns once the old one is gone."""
        log.warning("restarting", child=self.name, reason=reason)
        if self._alive():
            self._restart = reason
            await self._kill()
        self._wake.set()

    async def stop(self) -> None:
        """End the child: SIGTERM, a grace, SIGKILL. `run` returns."""
        self._stopping = True
        await self._kill()
        self._set("stopped", None)
        self._wake.set()

    # --- the loop ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the child alive until `stop`. Canceling this leaves the child as it is."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        while not self._stopping:
            if not self._adopt() and not await self._is_taken() and not self._stopping:
                self._spawn()
            began = asyncio.get_running_loop().time()
            await self._watch(began)
            if self._stopping:
                return
            await self._after_death(began)

    def _adopt(self) -> bool:
        """Take over the child of a gateway that died."""
        pid = marked(self._mark)
        if pid is None:
            return False
        self.pid, self._started, self._child = pid, start_time(pid), None
        self.generation += 1
        log.info("adopted", child=self.name, pid=pid)
        self._set("starting", "It outlived the last gateway.")
        return True

    async def _is_taken(self) -> bool:
        if self._address is None or not await _listens(self._address):
            return False
        self.pid = self._child = self._started = None
        host, port = self._address
        self._set(
            "backoff",
            f"Something else listens on {host} port {port}. Stop it, or give the engine another "
            "address in GATEWAY_COMFYUI_URLS.",
        )
        return True

    def _spawn(self) -> None:
        self._bound_log()
        try:
            with self._log.open("ab") as output:
                self._child = subprocess.Popen(  # noqa: S603 - the operator's own command
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self._environ,
                    start_new_session=True,
                )
        except OSError as error:
            self.pid = self._child = self._started = None
            self._set("backoff", f"It cannot be started: {error.strerror or error}")
            return
        self.pid = self._child.pid
        self._started = start_time(self.pid)
        self.generation += 1
        log.info("started", child=self.name, pid=self.pid)
        self._set("starting", None)

    def _bound_log(self) -> None:
        """Keep the log under a size, also while the child writes: it only ever appends."""
        with suppress(FileNotFoundError):
            if self._log.stat().st_size > _LARGEST_LOG:
                shutil.copyfile(self._log, self._log.with_suffix(".old.log"))
                os.truncate(self._log, 0)

    async def _watch(self, began: float) -> None:
        """Return when the child is gone."""
        loop = asyncio.get_running_loop()
        self._answered = looked = loop.time()
        while self._alive():
            generation = self.generation
            if self.state == "starting":
                if await self._is_healthy():
                    self.answered(generation)
                elif loop.time() - self._answered > self._patience.start:
                    log.error("did not answer in time", child=self.name)
                    await self._kill()
                    return
            else:
                if loop.time() - looked >= min(self._patience.look, self._patience.silent / 2):
                    await asyncio.to_thread(self._bound_log)
                    looked = loop.time()
                    if await self._is_healthy():
                        self.answered(generation)
                    elif loop.time() - self._answered > self._patience.silent:
                        log.error("does not answer any more", child=self.name)
                        await self._kill()
                        return
                if loop.time() - began > self._patience.settled:
                    self._failures = 0
            await self._pause(self._patience.poll)

    async def _after_death(self, began: float) -> None:
        if self.pid is not None:
            # What it started must not keep its port or its memory.
            _signal(self.pid, signal.SIGKILL)
        self.pid = None
        if self._restart is not None:
            self._restart = None
            self._set("starting", "It was restarted on purpose.")
            return
        lived = asyncio.get_running_loop().time() - began
        self._failures = 1 if lived > self._patience.settled else self._failures + 1
        wait = min(
            self._patience.backoff * 2 ** min(self._failures - 1, 16),
            self._patience.longest_backoff,
        )
        unhealthy = self._failures >= self._patience.unhealthy_after
        detail = self.detail if self.state == "backoff" else f"It ended after {lived:.0f} s."
        log.error("ended", child=self.name, failures=self._failures, wait_seconds=wait)
        self._set("unhealthy" if unhealthy else "backoff", detail)
        await self._pause(wait)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    def _alive(self) -> bool:
        if self.pid is None:
            return False
        if self._child is not None:
            return self._child.poll() is None
        return start_time(self.pid) == self._started

    async def _kill(self) -> None:
        """SIGTERM to the group, a grace, SIGKILL. Of this process: another may take its place."""
        pid, started = self.pid, self._started
        if pid is None or not self._alive():
            return

        def lives() -> bool:
            return self.pid == pid and self._started == started and self._alive()

        _signal(pid, signal.SIGTERM)
        deadline = asyncio.get_running_loop().time() + self._patience.stop
        while lives() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # there is no event for a process that is not our child
        if lives():
            _signal(pid, signal.SIGKILL)
            deadline = asyncio.get_running_loop().time() + _DEAD_SECONDS
            while lives() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    def _set(self, state: State, detail: str | None) -> None:
        self.state, self.detail = state, detail
        self._on_change()


async def _listens(address: tuple[str, int]) -> bool:
    try:
        async with asyncio.timeout(2):
            _, writer = await asyncio.open_connection(*address)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def _signal(group: int, which: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, which)


def clean_environment() -> dict[str, str]:
    """The gateway's own environment without settings and keys that no node pack has a use for."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_NOT_FOR_IT)}
