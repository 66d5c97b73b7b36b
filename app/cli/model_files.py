"""What `steadydancer models` does: list, verify and download the files that workflows need."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from app.cli.model_rows import gigabytes, planned_row, print_notes, row_of, size_of
from app.cli.output import ExitCode, Stop, note, say, say_json
from app.cli.serving import read_settings
from app.errors import Misconfigured
from app.settings import Settings
from app.workflows import models
from app.workflows.manifest import ManifestError, ModelFile
from app.workflows.models import Found, Needed
from app.workflows.registry import load_workflows

if TYPE_CHECKING:
    from app.cli.download import Hub, Meter
    from app.cli.fetching import Item

_FAILED = ExitCode.JOB_FAILED
"""A file is missing or wrong."""


def list_files(
    *,
    workflow: str | None,
    variant: str | None,
    models_dir: Path | None,
    every: bool,
    as_json: bool,
) -> ExitCode:
    """Show the files. See `app.cli.models` for what each command promises."""
    settings, files = _needed(workflow, variant, every=every)
    folder = models_dir or settings.models_path
    rows = [row_of(file, models.look(folder, file.model) if folder else None) for file in files]
    if as_json:
        say_json({"models_dir": None if folder is None else str(folder), "files": rows})
        return ExitCode.OK
    table = Table("File", "Folder", "GB", "License", "Needed by", "Here", box=None)
    for file, row in zip(files, rows, strict=True):
        table.add_row(
            row["file"] + (" *" if row["unverified"] else ""),
            row["folder"],
            gigabytes(file.model),
            row["license"],
            ", ".join(row["needed_by"]) or "other options",
            row["state"] or "unknown",
        )
    console = Console()
    console.print(table)
    print_notes(console, [file.model for file in files])
    total = sum(file.model.size_bytes for file in files)
    console.print(f"{len(files)} files, about {total / 1e9:.1f} GB.")
    if folder is None:
        console.print("Name ComfyUI's models folder with --models-dir to see what is here.")
    return ExitCode.OK


def verify(
    *,
    workflow: str | None,
    variant: str | None,
    models_dir: Path | None,
    online: bool,
    as_json: bool,
) -> ExitCode:
    """Read every needed file and check it."""
    settings, files = _needed(workflow, variant)
    folder = _folder(models_dir, settings)
    rows: list[dict[str, Any]] = []
    with _progress(Console(stderr=True), shown=not as_json) as progress:
        hub = _hub() if online else None
        for file in files:
            found = models.look(folder, file.model)
            problem, checked = _check(file.model, found, hub, progress)
            rows.append({**row_of(file, found), "problem": problem, "checked": checked})
    wrong = [row for row in rows if row["problem"]]
    if as_json:
        say_json({"models_dir": str(folder), "ok": not wrong, "files": rows})
    else:
        for row in rows:
            say(f"{'WRONG' if row['problem'] else 'ok':5}  {row['file']}  {row['checked']}")
            if row["problem"]:
                say(f"       {row['problem']}")
    return _FAILED if wrong else ExitCode.OK


def download(
    *,
    workflow: str | None,
    variant: str | None,
    models_dir: Path | None,
    parallel: int,
    dry_run: bool,
    replace: bool,
    as_json: bool,
) -> ExitCode:
    """Bring what is missing."""
    # The Hub's library takes half a second to import: no other command waits for it.
    from app.cli import fetching

    settings, files = _needed(workflow, variant)
    folder = _folder(models_dir, settings)
    console = Console(stderr=True)
    hub = _hub()
    items = fetching.plan(hub, files, folder, replace=replace, parallel=parallel)
    coming = [item for item in items if item.action == "download"]
    if coming and not as_json:
        print_notes(console, [item.needed.model for item in coming])
    short = fetching.short_of_space(items)
    problems = {item.needed.model.file: item.detail for item in items if item.action == "problem"}
    if not dry_run and not short:
        with _progress(console, shown=not as_json) as progress:
            try:
                problems |= fetching.run(
                    hub, items, parallel=parallel, meter_for=lambda item: _meter(progress, item)
                )
            except KeyboardInterrupt:
                note("Broken off; run it again to go on.")
                return ExitCode.INTERRUPTED
    failed = bool(short or problems)
    if as_json:
        rows = [planned_row(item, problems, folder) for item in items]
        say_json({"models_dir": str(folder), "ok": not failed, "space": short, "files": rows})
    else:
        _tell(console, items, problems, short, dry_run=dry_run)
    return _FAILED if failed else ExitCode.OK


# --- what the commands share ---------------------------------------------------------------------


def _needed(
    workflow: str | None, variant: str | None, *, every: bool = False
) -> tuple[Settings, tuple[Needed, ...]]:
    settings = read_settings()
    try:
        registry = load_workflows(settings.workflows_dir, overrides=settings.workflow_overrides)
        chosen = models.choose(registry, workflow=workflow, variant=variant)
    except (ManifestError, Misconfigured) as error:
        raise Stop(str(error)) from error
    return settings, models.needed(chosen, every=every)


def _folder(given: Path | None, settings: Settings) -> Path:
    folder = given or settings.models_path
    if folder is None:
        raise Stop(
            "Name ComfyUI's models folder with --models-dir, GATEWAY_MODELS_DIR or "
            "GATEWAY_COMFYUI_DIR."
        )
    if not folder.is_dir():
        raise Stop(f"There is no folder {folder}.")
    return folder


def _hub() -> Hub:
    from app.cli.download import Hub

    return Hub(endpoint=os.environ.get("HF_ENDPOINT"), stop=threading.Event())


def _check(
    model: ModelFile, found: Found, hub: Hub | None, progress: Progress
) -> tuple[str | None, str]:
    """What is wrong with a file, and by what it was checked."""
    if found.size_bytes is None:
        return f"It is missing: {found.path}.", ""
    if found.state == "wrong_size":
        return f"It has {found.size_bytes:,} bytes, not {size_of(model)}: {found.path}.", "size"
    wanted = model.sha256
    if hub is not None and (wanted is None or not model.verified.size):
        from app.cli.download import DownloadFailed

        try:
            remote = hub.find(model)
        except DownloadFailed as error:
            return str(error), "size"
        if found.size_bytes != remote.size_bytes:
            wrong = f"It has {found.size_bytes:,} bytes, the repository's {remote.size_bytes:,}."
            return wrong, "size"
        wanted = wanted or remote.sha256
    if wanted is None:
        return None, "size only: no SHA-256 is known (--online asks)"
    task = progress.add_task(model.file, total=found.size_bytes)
    got = models.sha256_of(found.path, on_bytes=lambda count: progress.advance(task, count))
    if got != wanted:
        return f"Its SHA-256 is {got}, not {wanted}: {found.path}.", "SHA-256"
    return None, "SHA-256"


# --- showing -------------------------------------------------------------------------------------


def _progress(console: Console, *, shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not shown,
    )


def _meter(progress: Progress, item: Item) -> Meter:
    name = item.needed.model.file
    total = None if item.remote is None else item.remote.size_bytes
    task = progress.add_task(name, total=total, start=False)

    def meter(done: int, phase: str) -> None:
        progress.start_task(task)
        words = name if phase == "downloading" else f"{name} ({phase})"
        progress.update(task, completed=done, description=words)

    return meter


def _tell(
    console: Console,
    items: Sequence[Item],
    problems: dict[str, str],
    short: Sequence[str],
    *,
    dry_run: bool,
) -> None:
    for item in items:
        file = item.needed.model.file
        if file in problems:
            console.print(f"PROBLEM  {file}: {problems[file]}", markup=False, soft_wrap=True)
        elif item.action == "download":
            word = "would download" if dry_run or short else "downloaded"
            left = f"{item.left_bytes / 1e9:.2f} GB"
            console.print(f"{word}  {file} ({left})", markup=False, soft_wrap=True)
        else:
            console.print(f"is here  {file} {item.detail}", markup=False, soft_wrap=True)
    for sentence in short:
        console.print(f"NO SPACE  {sentence}", markup=False, soft_wrap=True)
