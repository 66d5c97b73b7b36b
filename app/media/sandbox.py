"""Child processes for everything that decodes: limited in time and memory, fresh for every file.

A nursery process loads the codecs once and forks a child per task, which takes milliseconds where
a new Python would take a fifth of a second. It is started by the first task and ended when nobody
needed it for a while, so that an idle gateway is one process that never loaded a codec.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import structlog
from anyio.to_thread import run_sync

from app.errors import GatewayError, StorageFull, UnsupportedMedia
from app.media.limits import MediaLimits

_ROOT = Path(__file__).resolve().parents[2]
_GRACE_SECONDS = 2.0
"""How much longer than the child's own alarm the gateway waits before it kills it."""

_log = structlog.stdlib.get_logger(__name__)


class Sandbox:
    """Runs tasks on files in child processes.

    Args:
        limits: Memory and output bounds of every child.
        parallel: How many children may run at once.
        idle_seconds: The nursery ends after so long without a task.
        tasks: Module whose `TASKS` the children know.
    """

    def __init__(
        self,
        *,
        limits: MediaLimits,
        parallel: int = 2,
        idle_seconds: float = 60.0,
        tasks: str = "app.media.child.tasks",
    ) -> None:
        self.limits = limits
        self._turns = asyncio.Semaphore(parallel)
        self._idle_seconds = idle_seconds
        self._tasks = tasks
        self._starting = asyncio.Lock()
        self._nursery: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._busy = 0
        self._idle_timer: asyncio.TimerHandle | None = None
        self._burials: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> bool:
        """Whether the nursery is there now."""
        return self._nursery is not None

    async def run(self, task: str, /, *, seconds: float, **args: Any) -> dict[str, Any]:  # noqa: ANN401
        """Run one task on a file and give its answer.

        Args:
            task: Name of the task.
            seconds: Time it may take.
            args: What the task takes; plain JSON values.

        Raises:
            UnsupportedMedia: The file cannot be used, or reading it hung, crashed the decoder, or
                took more memory or time than allowed.
            StorageFull: The disk that the task writes to is full.
            GatewayError: The tools themselves cannot be started.
        """
        async with self._turns:
            self._busy += 1
            try:
                answer = await self._ask(task, seconds, args)
            finally:
                self._busy -= 1
                self._rest()
        return self._judge(task, seconds, answer)

    async def aclose(self) -> None:
        """End the nursery."""
        self._stop()
        if self._burials:
            await asyncio.gather(*self._burials)

    # --- one task ------------------------------------------------------------------------------

    async def _ask(self, task: str, seconds: float, args: dict[str, Any]) -> dict[str, Any] | None:
        """The child's answer; None if it ended without one."""
        request = {
            "task": task,
            "args": args,
            "limits": {
                "seconds": seconds,
                "memory_bytes": self.limits.memory_bytes,
                "output_bytes": self.limits.output_bytes,
            },
        }
        for _ in range(2):
            reader, writer = await asyncio.open_connection(sock=await self._fork())
            pid = 0
            try:
                pid = int(await reader.readline() or b"0")
                if not pid:  # the nursery died before it forked: the task was not begun
                    self._stop()
                    continue
                writer.write(json.dumps(request).encode() + b"\n")
                async with asyncio.timeout(seconds + _GRACE_SECONDS):
                    data = await reader.read()
            except (TimeoutError, ConnectionError):
                return None
            finally:
                # Until the end of its answer was seen the child may live, so the pid is its own.
                if pid and not reader.at_eof():
                    _kill(pid)
                writer.close()
            return dict(json.loads(data)) if data else None
        raise GatewayError("The gateway's media tools cannot be started; its log has the reason.")

    def _judge(self, task: str, seconds: float, answer: dict[str, Any] | None) -> dict[str, Any]:
        if answer is None:
            _log.warning("media child ended without an answer", task=task)
            raise UnsupportedMedia(
                f"The file could not be read: it stopped the decoder, or took it longer than "
                f"{seconds:g} seconds. Re-encode it as H.264 mp4 or as PNG and send it again."
            )
        if "refused" in answer:
            raise UnsupportedMedia(answer["refused"])
        match answer.get("died"):
            case None:
                return dict(answer["ok"])
            case "memory":
                raise UnsupportedMedia(
                    f"Decoding the file takes more than the "
                    f"{self.limits.memory_bytes >> 20} MiB of memory allowed. "
                    "Send a smaller picture or a video of a smaller size."
                )
            case "disk":
                raise StorageFull(
                    "The disk for temporary files is full; nothing was stored.", retry_after=60
                )
        _log.warning("media child failed", task=task, detail=answer.get("detail"))
        raise UnsupportedMedia(
            "The file could not be decoded; it is probably damaged. "
            "Re-encode it as H.264 mp4 or as PNG and send it again."
        )

    # --- the nursery -----------------------------------------------------------------------------

    async def _fork(self) -> socket.socket:
        """Our end of a new child's socket."""
        ours, theirs = socket.socketpair()
        with theirs:
            async with self._starting:
                for _ in range(2):
                    if self._nursery is None or self._nursery.poll() is not None:
                        self._stop()
                        await self._start()
                    if self._control is None:
                        continue
                    try:
                        socket.send_fds(self._control, [b"1"], [theirs.fileno()])
                    except OSError:
                        self._stop()
                    else:
                        ours.setblocking(False)
                        return ours
        ours.close()
        raise GatewayError("The gateway's media tools cannot be started; its log has the reason.")

    async def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "app.media.child", str(theirs.fileno()), self._tasks]
            self._nursery = await run_sync(
                lambda: subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    command,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env=_environment(),
                    start_new_session=True,
                )
            )
        self._control = ours

    def _stop(self) -> None:
        """Close the control socket, upon which the nursery ends, and wait for it elsewhere."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._nursery is not None:
            burial = asyncio.ensure_future(_bury(self._nursery))
            self._burials.add(burial)
            burial.add_done_callback(self._burials.discard)
            self._nursery = None

    def _rest(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._busy == 0:
            self._idle_timer = asyncio.get_running_loop().call_later(
                self._idle_seconds, self._stop_if_idle
            )

    def _stop_if_idle(self) -> None:
        if self._busy == 0:
            self._stop()


def _environment() -> dict[str, str]:
    """What a child needs and nothing secret. One malloc arena keeps its address space small."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, "PYTHONPATH": str(_ROOT), "MALLOC_ARENA_MAX": "1"}


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


async def _bury(process: subprocess.Popen[bytes]) -> None:
    try:
        await run_sync(lambda: process.wait(5))
    except subprocess.TimeoutExpired:
        process.kill()
        await run_sync(process.wait)
