"""Which of the card's memory is ComfyUI's own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from app.gpu.card import MemorySource, Reading

CONTEXT_MIB = 400
"""What a process holds beside torch's own memory (the CUDA context), where nothing better is known.
Seen: 619 MiB on an H100 (driver 580, torch 2.11), 693 MiB after kernels had run. Too small errs
on the safe side: the rest counts as somebody else's."""

LARGEST_CONTEXT_MIB = 1024
"""A learned offset above this is not a CUDA context but somebody else's memory."""

_TORCH_TOLERANCE_MIB = 64


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """What ComfyUI holds.

    Attributes:
        held_mib: Its memory; None if that cannot be told, and then it counts as not ours.
        source: How it is known.
        pids: Its processes as the driver names them; empty unless `source` is `pid`.
        idle_mib: What it holds with nothing loaded.
        device_used_mib: What all processes held at the same moment.
    """

    held_mib: int | None
    source: MemorySource
    pids: frozenset[int] = frozenset()
    idle_mib: int = CONTEXT_MIB
    device_used_mib: int | None = None


@dataclass(frozen=True, slots=True)
class Offset:
    """What ComfyUI holds beside torch's own memory: a stated constant until it is learned."""

    mib: int = CONTEXT_MIB
    learned: bool = False

    def learn(self, reading: Reading, *, torch_mib: int, pids: Collection[int] = ()) -> Offset:
        """The offset after a look at the card while ComfyUI was idle.

        Where its process is not named, all that is used is taken for its own. Other processes'
        memory can only make the figure larger, so the smallest seen counts, and one that is too
        large for a CUDA context is not believed; a stranger of a few hundred MiB is, until it goes,
        which the margin has to cover.

        Args:
            reading: The card while no prompt ran.
            torch_mib: `/system_stats` `torch_vram_total` at the same moment.
            pids: ComfyUI's processes as this gateway numbers them.
        """
        own = _by_pid(reading, pids, torch_mib)
        if own is not None:
            return Offset(max(0, own.held_mib - torch_mib), learned=True)
        seen = reading.used_mib - torch_mib
        if seen <= 0 or seen > LARGEST_CONTEXT_MIB or torch_mib < 0:
            return self
        return Offset(min(seen, self.mib) if self.learned else seen, learned=True)


def engine_memory(
    reading: Reading,
    *,
    pids: Collection[int] = (),
    torch_mib: int | None = None,
    offset: Offset | None = None,
) -> EngineMemory:
    """What ComfyUI holds, by the best source there is.

    Args:
        reading: The card now.
        pids: ComfyUI's processes as this gateway numbers them; empty if it does not own them.
        torch_mib: `/system_stats` `torch_vram_total`; None if it was not asked or did not answer.
        offset: What to add to torch's own figure.
    """
    beside = offset if offset is not None else Offset()
    own = _by_pid(reading, pids, torch_mib)
    if own is not None:
        return EngineMemory(own.held_mib, "pid", own.pids, beside.mib, reading.used_mib)
    if torch_mib is not None:
        held = min(torch_mib + beside.mib, reading.used_mib)
        return EngineMemory(held, "system_stats", frozenset(), beside.mib, reading.used_mib)
    return EngineMemory(None, "unknown", frozenset(), beside.mib, reading.used_mib)


@dataclass(frozen=True, slots=True)
class _Own:
    held_mib: int
    pids: frozenset[int]


def _by_pid(reading: Reading, pids: Collection[int], torch_mib: int | None) -> _Own | None:
    """What the driver says of ComfyUI's own processes; None if it does not."""
    own = [process for process in reading.processes if process.pid in frozenset(pids)]
    if not own or any(process.mib is None for process in own):
        return None
    held = sum(process.mib or 0 for process in own)
    # A container numbers processes from 1, the driver as the host does: another process may carry
    # our number. It cannot hold less than torch says that ComfyUI holds.
    if torch_mib is not None and held < torch_mib - _TORCH_TOLERANCE_MIB:
        return None
    return _Own(held, frozenset(process.pid for process in own))
