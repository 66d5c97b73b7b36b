#!/usr/bin/env python3
"""Prints what jobs cost: one row for each file of a job, with its event log beside it."""

# ruff: noqa: T201 - it prints a table
# Runs with the base image's Python and nothing installed.
from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any


def events_of(path: Path) -> list[dict[str, Any]]:
    """The data of each server-sent event; none where the log was not to be had."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("data:"):
            data = json.loads(line[5:])
            if isinstance(data, dict):
                found.append(data)
    return found


def moment(event: dict[str, Any]) -> float | None:
    """When an event happened, in seconds since 1970."""
    text = event.get("created_at") or event.get("at") or event.get("time")
    if not isinstance(text, str):
        return None
    iso = text.replace("Z", "+00:00")  # which Python 3.10 cannot read
    return datetime.fromisoformat(iso).timestamp()


def facts(event: dict[str, Any]) -> dict[str, Any]:
    """What an event says, wherever it says it."""
    inner = event.get("data")
    return {**event, **inner} if isinstance(inner, dict) else event


def loading_and_step(events: list[dict[str, Any]]) -> tuple[float | None, float | None]:
    """Seconds until sampling began, and seconds per step once it did."""
    began: float | None = None
    sampling: float | None = None
    sampled: float | None = None
    total: int | None = None
    steps: list[tuple[float, int]] = []
    for event in events:
        at, said = moment(event), facts(event)
        if at is None:
            continue
        phase = said.get("phase")
        if phase in {"starting", "loading"} and began is None:
            began = at
        if phase == "sampling" and sampling is None:
            sampling = at
        elif phase is not None and sampling is not None and sampled is None:
            sampled = at
        inner = said.get("progress")
        progress = inner if isinstance(inner, dict) else said
        if isinstance(progress.get("step"), int):
            steps.append((at, progress["step"]))
        if isinstance(progress.get("steps"), int):
            total = progress["steps"]
    load = None if began is None or sampling is None else sampling - began
    if len(steps) >= 2 and steps[-1][1] > steps[0][1]:
        return load, (steps[-1][0] - steps[0][0]) / (steps[-1][1] - steps[0][1])
    # Steps faster than the log is written: the whole of the sampling over their number.
    if sampling is not None and sampled is not None and total:
        return load, (sampled - sampling) / total
    return load, None


def row(path: Path) -> list[str]:
    """One job, as text."""
    job = json.loads(path.read_text(encoding="utf-8"))
    usage = job.get("usage") or {}
    video: dict[str, Any] = next(
        (one for one in job.get("artifacts", []) if one.get("name") == "video"), {}
    )
    log = path.with_name(path.name.replace("job.json", "events"))
    load, step = loading_and_step(events_of(log))

    def number(value: float | None, unit: str) -> str:
        return "-" if value is None else f"{value:,.1f} {unit}"

    peak = usage.get("peak_vram_mib")
    size = f"{video.get('width')}x{video.get('height')}, {video.get('frames')} frames"
    return [
        path.name.partition(".")[0],
        number(usage.get("queue_seconds"), "s"),
        number(usage.get("gpu_seconds"), "s"),
        number(load, "s"),
        number(step, "s"),
        "-" if peak is None else f"{peak:,} MiB",
        f"{video.get('bytes', 0):,} bytes, {size}",
    ]


def main() -> None:
    """Print the table."""
    head = ["run", "waited", "on the engine", "loading", "per step", "peak VRAM", "file"]
    rows = [head, *(row(Path(name)) for name in sys.argv[1:])]
    widths = [max(len(line[column]) for line in rows) for column in range(len(head))]
    for line in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )


if __name__ == "__main__":
    main()
