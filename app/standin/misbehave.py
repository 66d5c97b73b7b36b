"""What the stand-in can be told to do wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MODES = frozenset(
    {
        "reject",
        "node_errors_200",
        "lose_answer",
        "slow",
        "raise",
        "out_of_memory",
        "cuda_fault",
        "hang",
        "deaf",
        "drop_socket",
        "silent_socket",
        "die",
        "forget",
        "broken_file",
        "missing_file",
    }
)

DURING_RUN = (
    "raise",
    "out_of_memory",
    "cuda_fault",
    "hang",
    "deaf",
    "drop_socket",
    "silent_socket",
    "die",
    "forget",
)


@dataclass(slots=True, kw_only=True)
class Fault:
    """One thing to do wrong.

    Attributes:
        mode: Which.
        times: How often it still happens; None until told to behave.
        at_step: The sampling step at which it happens, from 1; 0 means before the first.
        seconds: How long, for those that last.
    """

    mode: str
    times: int | None = None
    at_step: int = 0
    seconds: float = 0.0


class Misbehavior:
    """The faults in force."""

    def __init__(self) -> None:
        self._faults: dict[str, Fault] = {}

    def add(self, described: Mapping[str, Any]) -> None:
        """Put a fault in force; the same mode given again replaces the first.

        Raises:
            ValueError: The mode is unknown.
        """
        mode = str(described.get("mode"))
        if mode not in MODES:
            raise ValueError(f"unknown mode '{mode}'; one of {', '.join(sorted(MODES))}")
        times = described.get("times")
        self._faults[mode] = Fault(
            mode=mode,
            times=None if times is None else int(times),
            at_step=int(described.get("at_step") or 0),
            seconds=float(described.get("seconds") or 0.0),
        )

    def parse(self, text: str) -> None:
        """Put a fault in force from a flag such as `hang:times=1,at_step=2`.

        Raises:
            ValueError: The mode is unknown or a setting is no number.
        """
        mode, _, rest = text.partition(":")
        settings = dict(part.split("=", 1) for part in rest.split(",") if part)
        self.add({"mode": mode, **settings})

    def behave(self) -> None:
        """Do nothing wrong any more."""
        self._faults.clear()

    def take(self, mode: str, *, step: int | None = None) -> Fault | None:
        """The fault of a mode if it happens now; one occurrence is used up."""
        fault = self._faults.get(mode)
        if fault is None or (step is not None and step != fault.at_step):
            return None
        if fault.times is not None:
            fault.times -= 1
            if fault.times <= 0:
                del self._faults[mode]
        return fault
