"""`steadydancer db media`: move media between the database and object storage."""

from __future__ import annotations

import asyncio
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.output import ExitCode, Stop, note, say, size
from app.cli.serving import read_settings

if TYPE_CHECKING:
    from app.database import Database
    from app.media.moving import Moved, Mover

app = typer.Typer(name="media", no_args_is_help=True, help="Where the media files lie.")

_SAID_EVERY_SECONDS = 2.0


class Place(StrEnum):
    """Where media can lie."""

    DATABASE = "database"
    OBJECTS = "objects"


@app.command()
def move(
    to: Annotated[Place, typer.Option(help="Where they shall lie.")],
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be moved.")
    ] = False,
) -> None:
    """Move all media into object storage, or back into the database.

    The gateway may run meanwhile. Each file is read back and compared by its SHA-256 before the old
    copy goes. Broken off, the same command goes on with what is left.

    Exit code 1 if a file is damaged; it stays where it was.
    """
    from app.cli.store import opened
    from app.gateway import utc_now
    from app.media.moving import Mover
    from app.parts import media_storage

    settings = read_settings()
    storage = media_storage(settings)
    if storage is None:
        raise Stop("GATEWAY_MEDIA_URL does not say which object storage.")
    if to.value != settings.media_new:
        note(
            f"New media still go into {settings.media_new}: set GATEWAY_MEDIA_NEW={to.value} for "
            "the gateway first, and move when it runs with that."
        )
    with opened(settings) as database:
        moved = asyncio.run(_move(database, Mover(database, storage, utc_now), to, dry_run=dry_run))
    if moved is not None and moved.damaged:
        for sha256 in moved.damaged:
            note(f"Damaged, and left where it is: {sha256}")
        raise typer.Exit(ExitCode.JOB_FAILED)


async def _move(_database: Database, mover: Mover, to: Place, *, dry_run: bool) -> Moved | None:
    files, total = await mover.pending(to.value)
    if dry_run:
        say(f"{files:,} files ({size(total)}) would be moved to {to.value}.")
        return None
    said_at = time.monotonic()

    def on_file(moved: Moved) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= _SAID_EVERY_SECONDS:
            said_at = time.monotonic()
            note(f"{moved.files:,} of {files:,} files, {size(moved.size)} of {size(total)}")

    moved = await mover.move(to.value, on_file=on_file)
    say(f"{moved.files:,} files ({size(moved.size)}) moved to {to.value}.")
    return moved
