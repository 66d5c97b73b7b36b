"""The benchmark's command works: two cheap rows at small sizes. No figure is judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.table import BEGIN, END, Figure, Row, percentile, write_docs

ROOT = Path(__file__).resolve().parents[2]


def test_the_command_measures_and_writes_the_table_and_the_rows(tmp_path: Path) -> None:
    markdown, rows = tmp_path / "table.md", tmp_path / "rows.json"
    command = [sys.executable, "-m", "tests.bench", "--quick", "--rows", "submissions,admission"]
    command += ["--markdown", str(markdown), "--json", str(rows)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=220, check=False
    )
    assert done.returncode == 0, done.stderr
    found = {row["name"]: row for row in json.loads(rows.read_text())["rows"]}
    measured = ("durable submissions, 16 clients", "admission, one decision")
    for name in measured:
        assert found[name]["figure"]["median"] > 0
        assert name in done.stdout
        assert f"| {name} |" in markdown.read_text()
    assert found["durable submissions, 16 clients"]["ratio"] > 0
    assert found["(polls)"]["figure"] is None, "what was not run has no figure"
    assert "| (polls) | not run |" in markdown.read_text()


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([float(one) for one in range(100)], 0.99) == 99.0
    with pytest.raises(ValueError, match="nothing was measured"):
        percentile([], 0.5)


def test_the_document_keeps_what_is_around_the_table(tmp_path: Path) -> None:
    path = tmp_path / "doc.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_docs(path, "new\n")
    assert path.read_text() == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    path.write_text("no markers")
    with pytest.raises(ValueError, match="has no"):
        write_docs(path, "new\n")


def test_a_row_is_compared_only_with_what_was_measured() -> None:
    figure = Figure(3.0, "min-max 2-4, 2 runs", "/s")
    assert Row(name="one", figure=figure, versus="other").ratio is None
    assert Row(name="one", figure=figure, versus="other", versus_figure=figure).ratio == 1.0
