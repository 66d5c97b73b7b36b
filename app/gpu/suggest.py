"""What would fit instead of a request that never does: computed from the needs, never canned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

Changes = Mapping[str, Any]
"""Fields of the request with the values to set."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A change of the request that fits the card.

    Attributes:
        changes: Fields to set; a client can send them as `overrides`.
        need_mib: What the request then needs.
    """

    changes: dict[str, Any]
    need_mib: int


def nearest_that_fit(
    ladders: Sequence[Sequence[Changes]],
    *,
    need_of: Callable[[Changes], int | None],
    capacity_mib: int,
) -> tuple[Fit, ...]:
    """The smallest steps away from the request that fit, at most one for each ladder.

    A ladder is one way to make the request smaller, such as fewer frames or the next preset, its
    rungs ordered from the nearest to the farthest. If no ladder reaches a fit alone, the nearest
    combination of all is given; if none fits, nothing.

    Args:
        ladders: Ways to make the request smaller.
        need_of: Need of the request with these changes, in MiB; None if they are not allowed.
        capacity_mib: The largest need that the card can ever admit.
    """

    def fit(changes: Changes) -> Fit | None:
        need = need_of(changes)
        return Fit(dict(changes), need) if need is not None and need <= capacity_mib else None

    alone = [next((found for rung in ladder if (found := fit(rung))), None) for ladder in ladders]
    fits = tuple(found for found in alone if found is not None)
    if fits:
        return fits
    together = sorted(
        product(*(range(len(ladder)) for ladder in ladders if ladder)),
        key=lambda rungs: (sum(rungs), rungs),
    )
    for rungs in together:
        merged = {
            name: value
            for ladder, rung in zip(filter(None, ladders), rungs, strict=True)
            for name, value in ladder[rung].items()
        }
        found = fit(merged)
        if found is not None:
            return (found,)
    return ()
