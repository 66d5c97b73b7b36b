"""Where a run goes wrong, when it was told to or when its memory does not suffice."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self

from app.standin.memory import Memory, OutOfCardMemory
from app.standin.misbehave import DURING_RUN, Fault, Misbehavior
from app.standin.state import Queue, Sockets

OUT_OF_MEMORY = "torch.OutOfMemoryError"
OUT_OF_MEMORY_TIPS = (
    "\nThis error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked before "
    "you might have accidentally set the batch_size to a large number."
)
CUDA_FAULT = "CUDA error: an illegal memory access was encountered"
FOREVER = 1e9
TICK = 0.01


class Interrupted(Exception):
    """The prompt was interrupted."""


class NodeFailed(Exception):
    """A node raised; carries the type name the real server reports."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    @classmethod
    def of(cls, error: Exception) -> Self:
        """Any error as the real server names it: module and class, builtins bare."""
        if isinstance(error, cls):
            return error
        if isinstance(error, OutOfCardMemory):
            return cls(OUT_OF_MEMORY, str(error))
        kind = type(error)
        name = (
            kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
        )
        return cls(name, str(error))

    def text(self) -> str:
        """The message as reported."""
        ending = OUT_OF_MEMORY_TIPS if self.kind == OUT_OF_MEMORY else "\n"
        return str(self) + ending


class Faults:
    """Applies what was ordered at the step it was ordered for."""

    def __init__(
        self,
        *,
        misbehavior: Misbehavior,
        memory: Memory,
        need_mib: int,
        queue: Queue,
        sockets: Sockets,
        drop: Callable[[], Awaitable[None]],
    ) -> None:
        self.misbehavior = misbehavior
        self.memory = memory
        self._need_mib = need_mib
        self._queue = queue
        self._sockets = sockets
        self._drop = drop
        self._broken = False

    async def at_step(self, step: int) -> None:
        """Do what is due before a step; 0 is before the first, when models are loaded."""
        if self._broken:
            raise NodeFailed("RuntimeError", CUDA_FAULT)
        if step == 0:
            await asyncio.to_thread(self.memory.hold, self._need_mib)
        for mode in DURING_RUN:
            if mode == "forget":
                continue
            fault = self.misbehavior.take(mode, step=step)
            if fault is not None:
                await self._commit(fault)

    async def _commit(self, fault: Fault) -> None:
        match fault.mode:
            case "raise":
                raise NodeFailed("RuntimeError", "the stand-in was told to fail")
            case "out_of_memory":
                raise NodeFailed(
                    OUT_OF_MEMORY,
                    "CUDA out of memory. Tried to allocate 2.00 GiB. (the stand-in was told to)",
                )
            case "cuda_fault":
                # A CUDA context that has faulted stays broken until the process ends.
                self._broken = True
                raise NodeFailed("RuntimeError", CUDA_FAULT)
            case "hang":
                await self._hang(fault.seconds or FOREVER, heeds=True)
            case "deaf":
                await self._hang(fault.seconds or FOREVER, heeds=False)
            case "drop_socket":
                await self._drop()
            case "silent_socket":
                await self._sockets.flush()
                self._sockets.silent = True
            case "die":
                await self._sockets.flush()
                os._exit(1)

    async def _hang(self, seconds: float, *, heeds: bool) -> None:
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            if heeds and self._queue.interrupted:
                self._queue.interrupted = False
                raise Interrupted
            await asyncio.sleep(TICK)
        if not heeds:
            self._queue.interrupted = False

    def spoil(self, path: Path | None) -> None:
        """Break or remove a file just written, if told to."""
        if path is None:
            return
        if self.misbehavior.take("broken_file"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2][::-1])
        if self.misbehavior.take("missing_file"):
            path.unlink()
