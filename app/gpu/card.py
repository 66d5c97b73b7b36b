"""What a card says of itself, and the one method that every card has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol


class CardUnreadable(Exception):
    """The card cannot be read now, so nothing may be admitted to it.

    Attributes:
        detail: What failed, in words.
        advice: What an operator can do about it.
    """

    def __init__(self, detail: str, *, advice: str) -> None:
        super().__init__(f"{detail} {advice}")
        self.detail = detail
        self.advice = advice


@dataclass(frozen=True, slots=True)
class Process:
    """A process with a CUDA context on the card.

    Attributes:
        pid: As the driver sees it: inside a container it may be the host's number.
        mib: Memory it holds; None where the driver does not tell (containers, WSL).
    """

    pid: int
    mib: int | None


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a card. Memory in MiB; `total = reserved + used + free`.

    Attributes:
        uuid: `GPU-…` or `MIG-…`.
        name: Product name, such as `NVIDIA H100 80GB HBM3`.
        total_mib: Physical memory.
        free_mib: Memory that an allocation could get now.
        reserved_mib: Memory that the driver keeps for itself: nobody's usage, nobody's room.
        reserved_known: False where the driver is too old to tell reserved memory from used; then
            `reserved_mib` is 0 and what the driver keeps counts as used.
        processes: Compute processes that the driver names; empty where it hides them.
        utilization_percent: Share of the last sample period in which a kernel ran.
        temperature_celsius: Of the GPU.
    """

    uuid: str
    name: str
    total_mib: int
    free_mib: int
    reserved_mib: int = 0
    reserved_known: bool = True
    processes: tuple[Process, ...] = ()
    utilization_percent: int | None = None
    temperature_celsius: int | None = None

    @property
    def used_mib(self) -> int:
        """What processes hold, the driver's own reserve left out."""
        return max(0, self.total_mib - self.reserved_mib - self.free_mib)

    @property
    def capacity_mib(self) -> int:
        """What processes can have at most."""
        return self.total_mib - self.reserved_mib


class Card(Protocol):
    """A card that can be read."""

    def read(self, *, light: bool = False) -> Reading:
        """Look at the card. Blocks: call it in a thread.

        Args:
            light: Memory and processes only, for the sampler.

        Raises:
            CardUnreadable: The card cannot be read now; a later call may succeed.
        """
        ...  # pragma: no cover


MemorySource = Literal["pid", "system_stats", "unknown"]
"""How it is known what ComfyUI holds."""
