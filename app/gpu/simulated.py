"""A card whose memory is what the caller says, moment by moment: for tests and demonstrations."""

from __future__ import annotations

import time
from collections.abc import Callable

from app.gpu.card import CardUnreadable, Process, Reading

Memory = int | Callable[[float], int]
"""MiB, or MiB as a function of the clock."""


class SimulatedCard:
    """Processes hold memory on it; it can hide them, and it can fail.

    Attributes:
        pids_hidden: As in a container: memory is taken, and no process is named.
        problem: Raised by every reading while it is set.
        reads: How often it was read.
    """

    def __init__(
        self,
        *,
        total_mib: int,
        reserved_mib: int = 0,
        name: str = "Simulated card",
        uuid: str = "GPU-00000000-0000-0000-0000-000000000000",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.uuid = uuid
        self.pids_hidden = False
        self.problem: CardUnreadable | None = None
        self.reads = 0
        self._total_mib = total_mib
        self._reserved_mib = reserved_mib
        self._clock = clock
        self._held: dict[int, Memory] = {}

    def hold(self, pid: int, memory: Memory) -> None:
        """Let a process hold so much from now on, or by a function of the clock; 0 lets go."""
        self._held[pid] = memory

    def exit(self, pid: int) -> None:
        """Let a process end."""
        self._held.pop(pid, None)

    def held(self, pid: int) -> int:
        """What a process holds now, in MiB."""
        memory = self._held.get(pid, 0)
        return memory(self._clock()) if callable(memory) else memory

    def read(self, *, light: bool = False) -> Reading:
        """The card at this moment of the clock."""
        self.reads += 1
        if self.problem is not None:
            raise self.problem
        now = {pid: self.held(pid) for pid in list(self._held)}
        used = min(sum(now.values()), self._total_mib - self._reserved_mib)
        return Reading(
            uuid=self.uuid,
            name=self.name,
            total_mib=self._total_mib,
            free_mib=self._total_mib - self._reserved_mib - used,
            reserved_mib=self._reserved_mib,
            processes=()
            if self.pids_hidden
            else tuple(Process(pid, mib) for pid, mib in now.items() if mib),
            utilization_percent=None if light else 0,
            temperature_celsius=None if light else 30,
        )
