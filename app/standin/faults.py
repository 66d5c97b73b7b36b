"""Where a run goes wrong, when it was told to or when its memory does not suffice."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path

from app.standin.failures import OUT_OF_MEMORY, Forgotten, Interrupted, NodeFailed
from app.standin.memory import Memory
from app.standin.misbehave import DURING_RUN, Fault, Misbehavior, Place
from app.standin.state import Queue, Sockets

CUDA_FAULT = "CUDA error: an illegal memory access was encountered"
FOREVER = 1e9
TICK = 0.01


class Faults:
    """Applies what was ordered at the step it was ordered for."""

    def __init__(
        self,
        *,
        misbehavior: Misbehavior,
        memory: Memory,
        need_mib: Mapping[str, int],
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

    def need(self, kinds: Iterable[str]) -> int:
        """MiB that a prompt with nodes of these classes needs on the card."""
        return sum(self._need_mib.get(kind, 0) for kind in {"", *kinds})

    async def at(self, place: Place, need_mib: int) -> None:
        """Do what is due at a point of a run; models are loaded before the first step."""
        if place.working:
            if self._broken:
                raise NodeFailed("RuntimeError", CUDA_FAULT)
            if place.step == 0:
                await asyncio.to_thread(self.memory.hold, need_mib)
        for mode in DURING_RUN:
            fault = self.misbehavior.take_at(mode, place)
            if fault is not None:
                await self._commit(fault)

    async def _commit(self, fault: Fault) -> None:
        match fault.mode:
            case "raise":
                raise NodeFailed(fault.exception_type, fault.message)
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
                self._sockets.silence()
            case "forget":
                self._queue.forget()
                raise Forgotten
            case "die":
                await self._sockets.flush()
                os._exit(1)

    async def _hang(self, seconds: float, *, heeds: bool) -> None:
        end = asyncio.get_running_loop().time() + seconds
        pardons = self.misbehavior.pardons
        while asyncio.get_running_loop().time() < end and self.misbehavior.pardons == pardons:
            if self._queue.running is None:
                raise Forgotten
            if heeds and self._queue.interrupted:
                raise Interrupted
            await asyncio.sleep(TICK)

    def spoil(self, path: Path | None) -> None:
        """Break or remove a file just written, if told to."""
        if path is None:
            return
        if self.misbehavior.take("broken_file"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2][::-1])
        if self.misbehavior.take("missing_file"):
            path.unlink()
