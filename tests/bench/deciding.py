"""What admission costs: a decision, and a look at the card."""

from __future__ import annotations

import time
from collections.abc import Callable

from app.gpu.admission import Situation, decide
from app.gpu.engine_memory import EngineMemory
from app.gpu.simulated import SimulatedCard
from tests.bench.kit import Lab
from tests.bench.table import Figure, Row, spread_of

_ENGINE, _OTHERS = 1, 2


def rows(lab: Lab) -> list[Row]:
    """Decisions and readings, a batch for each repeat."""
    card = SimulatedCard(total_mib=24_576, reserved_mib=380)
    card.hold(_ENGINE, 7_000)
    card.hold(_OTHERS, 3_000)
    engine = EngineMemory(7_000, "pid", frozenset({_ENGINE}))
    situation = Situation(reading=card.read(), engine=engine, loaded="others")
    count, repeats = lab.sizes.decisions, lab.sizes.repeats
    return [
        Row(
            name="admission, one decision",
            figure=_microseconds(lambda: decide(12_000, "steadydancer", situation), count, repeats),
            note="The pure function, models of another job loaded.",
        ),
        Row(
            name="admission, one reading of the simulated card",
            figure=_microseconds(card.read, count, repeats),
            note="Python's part of a reading only: what a driver takes is not in it.",
        ),
    ]


def _microseconds(work: Callable[[], object], count: int, repeats: int) -> Figure:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(count):
            work()
        times.append((time.perf_counter() - began) / count)
    return spread_of(times, "µs", scale=1e6)
