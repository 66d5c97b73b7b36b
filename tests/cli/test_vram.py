"""`steadydancer vram`: what one machine learned is shown, taken to another, and forgotten."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlmodel import Session

from app.database import Database
from app.gpu.estimate import ShapeKey, learned, record
from tests.clikit import Ended, invoke

KEY = ShapeKey("steadydancer", "q4_k_m", 480, 832, 81, "NVIDIA RTX A4000")
OTHER = ShapeKey("smoke", "default", 64, 112, 17, "NVIDIA RTX A4000")

Vram = Callable[..., Ended]


@pytest.fixture
def vram(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Vram:
    """Run `steadydancer vram …` on a data directory."""

    def run(data: Path, *words: str, given: str = "") -> Ended:
        environment = {"GATEWAY_DATA_DIR": str(data), "COLUMNS": "200"}
        return invoke(monkeypatch, capsys, "vram", *words, environment=environment, given=given)

    return run


@pytest.fixture
async def data(db: Database) -> Path:
    """A data directory in which two shapes ran, one of them out of memory once."""

    def store(session: Session) -> None:
        for key, peak, oom in ((KEY, 13_000, False), (KEY, 13_500, True), (OTHER, 700, False)):
            record(
                session,
                key,
                peak_mib=peak,
                card_mib=15_500,
                oom=oom,
                source="process",
                attempt_id=None,
                at=datetime(2026, 1, 1, tzinfo=UTC),
            )

    await db.write(store)
    assert db.path is not None
    return db.path.parent


def test_show_says_what_each_shape_takes(vram: Vram, data: Path) -> None:
    rows = json.loads(vram(data, "show", "--json").stdout)
    found = {row["workflow"]: (row["samples"], row["ooms"], row["need_mib"]) for row in rows}
    assert found == {"smoke": (1, 0, 828), "steadydancer": (2, 1, 15_500)}
    table = vram(data, "show", "--workflow", "smoke").stdout
    assert "64x112x17" in table
    assert "828 MiB" in table
    assert "steadydancer" not in table


def needs(path: Path) -> list[int | None]:
    """What a database says of the two shapes."""

    def look(session: Session) -> list[int | None]:
        return [need.mib if (need := learned(session, key)) else None for key in (KEY, OTHER)]

    database = Database(f"sqlite:///{path}")
    database.open()
    try:
        return asyncio.run(database.read(look))
    finally:
        database.close()


def test_what_was_exported_counts_on_another_machine(
    vram: Vram, data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "learned.json"
    assert vram(data, "export", str(file)).returncode == 0
    there = tmp_path / "there"
    assert "3 samples added" in vram(there, "import", str(file)).stdout
    assert "0 samples added; 3 were known" in vram(there, "import", str(file)).stdout
    assert needs(there / "gateway.db") == needs(data / "gateway.db") == [15_500, 828]


def test_export_and_import_work_through_a_pipe(vram: Vram, data: Path, tmp_path: Path) -> None:
    text = vram(data, "export", "-").stdout
    assert "3 samples added" in vram(tmp_path / "there", "import", "-", given=text).stdout


@pytest.mark.parametrize(
    "text", ["nonsense", "[]", '{"format": 2, "samples": []}', '{"format": 1, "samples": [{}]}']
)
def test_a_file_that_is_no_export_is_refused_and_nothing_is_kept(
    vram: Vram, data: Path, tmp_path: Path, text: str
) -> None:
    file = tmp_path / "f.json"
    file.write_text(text, encoding="utf-8")
    done = vram(data, "import", str(file))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len(json.loads(vram(data, "show", "--json").stdout)) == 2


def test_reset_asks_first_and_forgets_one_workflow_or_all(vram: Vram, data: Path) -> None:
    assert vram(data, "reset", given="n\n").returncode != 0
    assert len(json.loads(vram(data, "show", "--json").stdout)) == 2
    done = vram(data, "reset", "--workflow", "steadydancer", "--yes")
    assert "2 samples forgotten" in done.stdout
    assert [row["workflow"] for row in json.loads(vram(data, "show", "--json").stdout)] == ["smoke"]
    vram(data, "reset", "--yes")
    assert "Nothing was learned yet" in vram(data, "show").stdout
