"""A simulated card: its memory follows what processes hold on it, moment by moment.

The gateway's own rooms have their own types for a reading; this one has the same fields and
imports nothing of theirs, so the stand-in stays a stranger to what it helps to test.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

Held = int | Callable[[float], int]
"""MiB, or MiB as a function of seconds on the card's clock."""

IDLE_CELSIUS = 34
BUSY_CELSIUS = 71


@dataclass(frozen=True, slots=True)
class CardProcess:
    """A process with memory on the card.

    Attributes:
        pid: Its process id.
        mib: What it holds, in MiB.
    """

    pid: int
    mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CardReading:
    """One look at the card; `total = reserved + held + free`, in MiB."""

    uuid: str
    name: str
    total_mib: int
    free_mib: int
    reserved_mib: int
    processes: tuple[CardProcess, ...]
    utilization_percent: int
    temperature_celsius: int


@dataclass(slots=True)
class _Visit:
    mib: Held
    until: float


class SimulatedCard:
    """A card that processes come to and leave.

    Attributes:
        pids_hidden: Memory is taken but no process is named, as inside most containers.
        fallen_off: Every reading fails, as after a driver reset.
    """

    def __init__(
        self,
        *,
        total_mib: int,
        reserved_mib: int = 0,
        name: str = "Stand-in card",
        uuid: str = "GPU-57a4d117-0000-4000-8000-000000000000",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Put a card in.

        Args:
            total_mib: Its physical memory.
            reserved_mib: What the driver keeps for itself.
            name: Product name.
            uuid: As NVML writes it.
            clock: Seconds; a `ManualClock().seconds` makes the card move by hand.
        """
        self.name = name
        self.uuid = uuid
        self.total_mib = total_mib
        self.reserved_mib = reserved_mib
        self.pids_hidden = False
        self.fallen_off = False
        self._clock = clock
        self._visits: dict[int, _Visit] = {}
        self._busy_until = float("-inf")

    def hold(self, pid: int, mib: Held, *, seconds: float = float("inf")) -> None:
        """Let a process hold memory from now on, for so long; it replaces what it held.

        Args:
            pid: The process.
            mib: How much; a function is asked at each reading, with the clock's seconds.
            seconds: After which it has left again.
        """
        now = self._clock()
        self._visits[pid] = _Visit(mib=mib, until=now + seconds)

    def leave(self, pid: int) -> None:
        """Let a process end; one that is not there is no error."""
        self._visits.pop(pid, None)

    def work(self, seconds: float) -> None:
        """Show the card at work for so long."""
        self._busy_until = self._clock() + seconds

    def read(self) -> CardReading:
        """The card as it is now.

        Memory that processes hold beyond the card's size is not shown: the free figure ends at 0.

        Raises:
            OSError: The card has fallen off the bus.
        """
        if self.fallen_off:
            raise OSError("GPU is lost")
        now = self._clock()
        self._visits = {pid: visit for pid, visit in self._visits.items() if now < visit.until}
        processes = tuple(
            CardProcess(pid=pid, mib=mib)
            for pid, visit in self._visits.items()
            if (mib := visit.mib(now) if callable(visit.mib) else visit.mib) > 0
        )
        held = sum(process.mib for process in processes)
        busy = now < self._busy_until
        return CardReading(
            uuid=self.uuid,
            name=self.name,
            total_mib=self.total_mib,
            free_mib=max(0, self.total_mib - self.reserved_mib - held),
            reserved_mib=self.reserved_mib,
            processes=() if self.pids_hidden else processes,
            utilization_percent=100 if busy else 0,
            temperature_celsius=BUSY_CELSIUS if busy else IDLE_CELSIUS,
        )
