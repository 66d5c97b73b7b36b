"""How `steadydancer models` shows a file: as a JSON row, and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from app.workflows import models
from app.workflows.manifest import ModelFile
from app.workflows.models import Found, Needed

if TYPE_CHECKING:
    from app.cli.fetching import Item


def row_of(file: Needed, found: Found | None) -> dict[str, Any]:
    """What the manifest says of a file, and what lies here (None: nobody looked)."""
    model = file.model
    return {
        "file": model.file,
        "folder": model.folder,
        "repository": model.repository,
        "path": model.path,
        "size_bytes": model.size_bytes,
        "sha256": model.sha256,
        "license": model.license,
        "license_note": model.license_note,
        "unverified": models.marks(model),
        "workflows": file.workflows,
        "needed_by": file.variants,
        "state": None if found is None else found.state,
        "found_at": None if found is None or found.size_bytes is None else str(found.path),
        "found_bytes": None if found is None else found.size_bytes,
    }


def planned_row(item: Item, problems: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """The same with what was decided and what came of it."""
    now = models.look(folder, item.needed.model)
    return {
        **row_of(item.needed, now),
        "action": item.action,
        "left_bytes": item.left_bytes,
        "detail": item.detail,
        "problem": problems.get(item.needed.model.file),
    }


def print_notes(console: Console, files: Sequence[ModelFile]) -> None:
    """Say what restricts use, once for each sentence, and what was not seen."""
    notes: dict[str, list[str]] = {}
    for model in files:
        if model.license_note:
            notes.setdefault(f"{model.license}: {model.license_note}", []).append(model.file)
    for note, names in notes.items():
        console.print(f"License of {', '.join(names)}: {note}.", markup=False, soft_wrap=True)
    for model in files:
        if marks := models.marks(model):
            console.print(f"* {model.file}: {'; '.join(marks)}.", markup=False, soft_wrap=True)


def size_of(model: ModelFile) -> str:
    """Bytes, said to be about so many where no source states them."""
    return f"{model.size_bytes:,}" if model.verified.size else f"about {model.size_bytes:,}"


def gigabytes(model: ModelFile) -> str:
    """The same for a narrow column."""
    return f"{'' if model.verified.size else '~'}{model.size_bytes / 1e9:.2f}"
