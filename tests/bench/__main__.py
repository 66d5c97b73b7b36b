"""`python -m tests.bench`: measure, print one table."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.bench import (
    deciding,
    files,
    footprint,
    lists,
    pace,
    polls,
    streams,
    submissions,
)
from tests.bench.kit import QUICK, ROOT, Lab, Sizes
from tests.bench.table import Row, as_json, as_markdown, as_text, write_docs

GROUPS: dict[str, Callable[[Lab], list[Row]]] = {
    "idle": pace.idle_rows,
    "added": pace.added_rows,
    "submissions": submissions.rows,
    "polls": polls.rows,
    "lists": lists.rows,
    "streams": streams.rows,
    "downloads": files.download_rows,
    "uploads": files.upload_rows,
    "start": footprint.start_rows,
    "memory": footprint.memory_rows,
    "cancel": pace.cancel_rows,
    "webhooks": pace.webhook_rows,
    "admission": deciding.rows,
}
"""The rows by the name that `ROWS` takes, in the order of the table."""

DOCS = ROOT / "docs" / "performance.md"


def measure(names: Sequence[str], sizes: Sizes) -> tuple[list[Row], bool]:
    """Measure the named groups; the others' rows say that they were not run.

    Returns:
        The rows in the order of the table, and whether every named group could be measured.
    """
    rows: list[Row] = []
    good = True
    for name, group in GROUPS.items():
        if name not in names:
            rows.append(Row(name=f"({name})", note="Not asked for in this run."))
            continue
        began = time.monotonic()
        try:
            with Lab(sizes) as lab:
                rows += group(lab)
        except Exception as error:  # noqa: BLE001 - one that fails must not lose the others
            traceback.print_exc()
            good = False
            told = str(error).splitlines() or [""]
            rows.append(Row(name=f"({name})", note=f"Failed: {type(error).__name__}: {told[0]}"))
        sys.stderr.write(f"{name}: {time.monotonic() - began:.0f} s\n")
    return rows, good


def about(sizes: Sizes) -> list[str]:
    """What a reader must know of the run: when, where, how large."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    how = "QUICK sizes, which show that the command works and no figure." if sizes is QUICK else ""
    words = (
        f"Measured on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC at {revision()}.",
        f"{os.cpu_count()} cores of a machine shared with other work, {memory:.0f} GiB of memory,",
        f"Python {platform.python_version()}; load average {os.getloadavg()[0]:.1f} at the end.",
        how or "Full sizes.",
    )
    return [" ".join(words)]


def revision() -> str:
    """The commit that was measured, and whether `app` differed from it."""
    git = ("git", "-C", str(ROOT))
    try:
        commit = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], text=True).strip()
        changed = subprocess.check_output([*git, "status", "--porcelain", "--", "app"], text=True)
    except (OSError, subprocess.CalledProcessError):
        return "an unknown commit"
    return f"commit {commit}" + (" with uncommitted changes in app" if changed.strip() else "")


def main() -> int:
    """Read the flags, measure, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    add = parser.add_argument
    add("--rows", default="", help=f"some of {','.join(GROUPS)}; default all")
    add("--quick", action="store_true", help="small sizes: only to see that it works")
    add("--markdown", type=Path, help="write the table there")
    add("--json", type=Path, help="write the rows there, for programs")
    add("--write-docs", action="store_true", help="put the table into docs/performance.md")
    wanted = parser.parse_args()
    names = [name for name in wanted.rows.split(",") if name] or list(GROUPS)
    if unknown := set(names) - set(GROUPS):
        parser.error(f"no such rows: {', '.join(sorted(unknown))}")
    sizes = QUICK if wanted.quick else Sizes()
    rows, good = measure(names, sizes)
    told = about(sizes)
    print("\n".join([as_text(rows), "", *told]))
    markdown = as_markdown(rows, told)
    if wanted.markdown is not None:
        wanted.markdown.write_text(markdown)
    if wanted.json is not None:
        wanted.json.write_text(as_json(rows, told))
    if wanted.write_docs:
        write_docs(DOCS, markdown)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
