"""`steadydancer vram`: what the gateway learned about memory, shown, taken along, forgotten."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import Json, json_object
from app.cli.output import Stop, say, say_json
from app.cli.serving import read_settings

if TYPE_CHECKING:
    from sqlmodel import Session

app = typer.Typer(no_args_is_help=True, help="Memory needs, learned from runs that ended.")

_FORMAT = 1
"""Version of the export file."""

WorkflowName = Annotated[str | None, typer.Option("--workflow", help="Only this workflow.")]


@app.command()
def show(*, workflow: WorkflowName = None, as_json: Json = False) -> None:
    """Show the need of every shape that ran, by card."""
    from app.cli.store import opened
    from app.gpu import estimate

    with opened(read_settings()) as database:
        found = asyncio.run(database.read(partial(estimate.summary, workflow=workflow)))
    rows = [{**asdict(one.key), **asdict(one)} for one in found]
    for row in rows:
        del row["key"]
        row["last_at"] = row["last_at"].isoformat()
    if as_json:
        say_json(rows)
    elif not rows:
        say("Nothing was learned yet: the workflows' formulas are used.")
    else:
        _print_table(rows)


@app.command("export")
def export_file(
    file: Annotated[Path, typer.Argument(help="File to write; - is standard output.")],
) -> None:
    """Write all that was learned to a file, for another machine with such a card."""
    import json

    from app.cli.store import opened
    from app.gpu.transfer import export_samples

    with opened(read_settings()) as database:
        rows = asyncio.run(database.read(export_samples))
    text = json.dumps({"format": _FORMAT, "samples": rows}, indent=1)
    if str(file) == "-":
        say(text)
        return
    beside = file.with_name(f"{file.name}.partial")
    beside.write_text(text + "\n", encoding="utf-8")
    beside.replace(file)
    say(f"{len(rows)} samples written to {file}.")


@app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(help="An export file; - is standard input.")],
) -> None:
    """Add what another machine learned; what is known already is left alone.

    A running gateway takes it up within a minute.
    """
    from app.cli.store import opened
    from app.gpu.transfer import import_samples

    data = json_object(file, "FILE")
    rows = data.get("samples")
    if data.get("format") != _FORMAT or not isinstance(rows, list):
        raise Stop(f"{file} was not written by `steadydancer vram export`.")

    def add(session: Session) -> int:
        return import_samples(session, rows)

    with opened(read_settings()) as database:
        try:
            added = asyncio.run(database.write(add))
        except ValueError as error:
            raise Stop(f"{file}: {error}") from error
    say(f"{added} samples added; {len(rows) - added} were known.")


@app.command()
def reset(
    *,
    workflow: WorkflowName = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Forget what was learned; the formulas count again until new runs were seen."""
    from app.cli.store import opened
    from app.gpu import transfer

    with opened(read_settings()) as database:
        what = "everything" if workflow is None else f"what the runs of {workflow} taught"
        if not yes:
            typer.confirm(f"Forget {what}?", abort=True)
        gone = asyncio.run(database.write(partial(transfer.reset, workflow=workflow)))
    say(f"{gone} samples forgotten.")


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    titles = ("Workflow", "Variant", "Size", "Card", "Runs", "Out of memory", "Peak", "Need")
    table = Table(*titles, box=None)
    for row in rows:
        table.add_row(
            row["workflow"],
            row["variant"],
            f"{row['width']}x{row['height']}x{row['frames']}",
            row["card"],
            str(row["samples"]),
            str(row["ooms"]),
            f"{row['peak_mib']:,} MiB",
            f"{row['need_mib']:,} MiB",
        )
    Console().print(table)
