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


@dataclass(frozen=True, slots=True)
class Place:
    """A point of a run at which things can go wrong.

    Attributes:
        node_id: The node that runs.
        kind: Its class.
        step: Its step, from 1; 0 is before the first.
        working: Whether the work of the prompt is done here.
    """

    node_id: str
    kind: str
    step: int
    working: bool


ACCEPTED = Place(node_id="accepted", kind="accepted", step=0, working=False)
"""Where a prompt has just been put into the queue: `die` can be ordered for it by this name."""


@dataclass(slots=True, kw_only=True)
class Fault:
    """One thing to do wrong.

    Attributes:
        mode: Which.
        times: How often it still happens; None until told to behave.
        at_step: The step of a sampler at which it happens, from 1; 0 means before the first; None
            means at the next place where work is done.
        seconds: How long, for those that last.
        node: Id or class of the node at which it happens; empty means where the work is done: at a
            sampler, or at an output where the graph has no sampler.
        exception_type: What `raise` raises.
        message: Its text.
    """

    mode: str
    times: int | None = None
    at_step: int | None = None
    seconds: float = 0.0
    node: str = ""
    exception_type: str = "RuntimeError"
    message: str = "the stand-in was told to fail"

    def belongs(self, place: Place) -> bool:
        """Whether it happens at a place."""
        here = self.node in {place.node_id, place.kind} if self.node else place.working
        return here and self.at_step in {None, place.step}


class Misbehavior:
    """The faults in force."""

    def __init__(self) -> None:
        self._faults: dict[str, Fault] = {}
        self.pardons = 0

    def add(self, described: Mapping[str, Any]) -> None:
        """Put a fault in force; the same mode given again replaces the first.

        Raises:
            ValueError: The mode or a setting is unknown, or a value is no number.
        """
        mode = str(described.get("mode"))
        if mode not in MODES:
            raise ValueError(f"unknown mode '{mode}'; one of {', '.join(sorted(MODES))}")
        self._faults[mode] = Fault(mode=mode, **_settings(described))

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
        self.pardons += 1

    def take(self, mode: str) -> Fault | None:
        """The fault of a mode if it is in force; one occurrence is used up."""
        fault = self._faults.get(mode)
        if fault is not None and fault.times is not None:
            fault.times -= 1
            if fault.times <= 0:
                del self._faults[mode]
        return fault

    def take_at(self, mode: str, place: Place) -> Fault | None:
        """The same, if the fault belongs to this place of a run."""
        fault = self._faults.get(mode)
        return self.take(mode) if fault is not None and fault.belongs(place) else None


def _settings(described: Mapping[str, Any]) -> dict[str, Any]:
    converters = {
        "times": int,
        "at_step": int,
        "seconds": float,
        "node": str,
        "exception_type": str,
        "message": str,
    }
    unknown = set(described) - set(converters) - {"mode"}
    if unknown:
        raise ValueError(f"unknown setting {', '.join(sorted(unknown))}")
    return {
        name: converters[name](value)
        for name, value in described.items()
        if name in converters and value is not None
    }
