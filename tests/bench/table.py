"""What was measured, and the table that shows it."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BEGIN, END = "<!-- table -->", "<!-- /table -->"
_HEADS = ("row", "median", "spread", "compared with", "ratio", "goal", "reached")
NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured figure.

    Attributes:
        median: Median of what was measured.
        spread: How far the rest lies from it, in words: `min-max …` over repeats, or `p99 …` over
            single measurements.
        unit: Unit of both.
    """

    median: float
    spread: str
    unit: str

    def __str__(self) -> str:
        return f"{number(self.median)} {self.unit}"


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure to reach, and whether this run reached it."""

    text: str
    reached: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        name: What was measured, with its sizes.
        figure: The result; None if it was not run.
        versus: What it is compared with, measured in the same run.
        versus_figure: The other's result.
        goal: The figure to reach, where there is one.
        note: What a reader must know: how it was measured, or why it was not run.
    """

    name: str
    figure: Figure | None = None
    versus: str = ""
    versus_figure: Figure | None = None
    goal: Goal | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours by the other's."""
        if self.figure is None or self.versus_figure is None or not self.versus_figure.median:
            return None
        return self.figure.median / self.versus_figure.median

    def cells(self) -> tuple[str, ...]:
        """Its cells, in the order of the heads."""
        other = "-"
        if self.versus:
            found = "" if self.versus_figure is None else f" {self.versus_figure}"
            other = f"{self.versus}{found}"
        return (
            self.name,
            NOT_RUN if self.figure is None else str(self.figure),
            "-" if self.figure is None else self.figure.spread,
            other,
            "-" if self.ratio is None else f"{number(self.ratio)} x",
            "-" if self.goal is None else self.goal.text,
            "-" if self.goal is None else ("yes" if self.goal.reached else "no"),
        )


def number(value: float) -> str:
    """A figure with three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share lies (nearest rank).

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("nothing was measured")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread_of(values: Sequence[float], unit: str, *, scale: float = 1.0) -> Figure:
    """Repeats as a figure: median, least and most.

    Args:
        values: One for each repeat.
        unit: What they are in once they are multiplied by `scale`.
        scale: Such as 1000 for seconds that are shown as ms.
    """
    low, high = min(values) * scale, max(values) * scale
    median = statistics.median(values) * scale
    return Figure(median, f"min-max {number(low)}-{number(high)}, {len(values)} runs", unit)


def ms_of(seconds: Sequence[float], share: float = 0.99) -> Figure:
    """Single measurements in seconds as a figure in ms: p50, and a high percentile."""
    high = percentile(seconds, share) * 1000
    text = f"p{share * 100:g} {number(high)}, n={len(seconds)}"
    return Figure(percentile(seconds, 0.5) * 1000, text, "ms")


def as_text(rows: Sequence[Row]) -> str:
    """The table for a terminal, with its notes below."""
    table = [_HEADS, *(row.cells() for row in rows)]
    widths = [max(len(cells[at]) for cells in table) for at in range(len(_HEADS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in table
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    notes = [f"* {row.name}: {row.note}" for row in rows if row.note]
    return "\n".join([*lines, "", *notes])


def as_markdown(rows: Sequence[Row], about: Sequence[str]) -> str:
    """The table for a document: what it was measured on, the rows, the notes."""
    table = [_HEADS, tuple("---" for _ in _HEADS), *(row.cells() for row in rows)]
    lines = ["| " + " | ".join(cells) + " |" for cells in table]
    notes = [f"- {row.name}: {row.note}" for row in rows if row.note]
    return "\n".join([*about, "", *lines, "", *notes]).rstrip() + "\n"


def as_json(rows: Sequence[Row], about: Sequence[str]) -> str:
    """The same for programs."""
    shown = [{**dataclasses.asdict(row), "ratio": row.ratio} for row in rows]
    return json.dumps({"about": list(about), "rows": shown}, indent=2) + "\n"


def write_docs(path: Path, markdown: str) -> None:
    """Put the table between its markers in a document.

    Raises:
        ValueError: The document has no such markers.
    """
    text = path.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no {BEGIN} … {END}")
    path.write_text(f"{before}{BEGIN}\n{markdown}{END}{after}")
