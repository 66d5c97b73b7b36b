"""`steadydancer db`: copy, put back, check and upgrade the store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import media
from app.cli.output import ExitCode, Stop, note, say
from app.cli.output import size as human
from app.cli.serving import read_settings
from app.cli.store import sqlite_file

if TYPE_CHECKING:
    from app.settings import Settings

app = typer.Typer(
    no_args_is_help=True, help="The database: backup, restore, check, upgrade, and its media."
)
app.add_typer(media.app)


@app.command()
def backup(file: Annotated[Path, typer.Argument(dir_okay=False, help="File to write.")]) -> None:
    """Copy the store, videos included, while the gateway runs; the copy is checked.

    Media in object storage are not copied; it says how many there are.
    """
    from app import backup as copies

    source = sqlite_file(read_settings())
    _keep_apart(source, file)
    if not file.parent.is_dir():
        raise Stop(f"There is no folder {file.parent}.")
    size = copies.backup(source, file)
    say(f"{file}: {size:,} bytes, checked.")
    files, outside = copies.outside(file)
    if files:
        note(
            f"Not in it: {files:,} media files ({human(outside)}) in object storage. The copy is "
            "of use only together with the bucket as it is now."
        )


@app.command()
def restore(file: Annotated[Path, typer.Argument(dir_okay=False, help="A backup.")]) -> None:
    """Put a backup in the store's place. The gateway must be stopped.

    The database that was there is kept beside it, named `.before-restore`.
    """
    from app import backup as copies
    from app.instance import sole_instance

    settings = read_settings()
    target = sqlite_file(settings)
    _keep_apart(target, file)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with sole_instance(settings.data_dir):
        had = target.exists()
        copies.restore(file, target)
    say(f"{target} is now the backup {file}.")
    if had:
        say(f"What was there is {target.name}.before-restore.")


@app.command()
def check() -> None:
    """Read the whole store and say whether it is sound, and of which version.

    Exit code 1 if it is not.
    """
    from app import backup as copies
    from app.errors import StoreUnavailable

    settings = read_settings()
    path = sqlite_file(settings)
    try:
        copies.check(path)
        current, head = _revisions(settings)
    except StoreUnavailable as error:
        note(error.detail)
        raise typer.Exit(ExitCode.JOB_FAILED) from error
    if current != head:
        note(
            f"{path} is sound, but has schema {current}, and this version {head}. An older one is "
            "upgraded by `steadydancer db upgrade`, a newer one needs the gateway that made it."
        )
        raise typer.Exit(ExitCode.JOB_FAILED)
    say(f"{path} is sound; schema {current}.")


@app.command()
def upgrade() -> None:
    """Bring the store to this version's schema, as the gateway does when it starts.

    An older SQLite file is copied first, beside it, named after the schema it had.
    """
    from app import backup as copies
    from app import schema
    from app.database import Database, translated
    from app.instance import sole_instance

    settings = read_settings()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    database = Database(settings.store_url)
    with sole_instance(settings.data_dir), translated():
        try:
            before = schema.current_revision(database.engine)
            head = schema.revisions(settings.migrations_dir)[-1]
            if before not in {None, head} and database.path is not None:
                kept = database.path.with_name(f"{database.path.name}.schema-{before}")
                copies.backup(database.path, kept)
                say(f"Copied to {kept}.")
            before, after = schema.upgrade(database.engine, settings.migrations_dir)
        finally:
            database.close()
    say(
        f"Schema {after}: nothing to do."
        if before == after
        else f"Upgraded from {before or 'nothing'} to {after}."
    )


def _revisions(settings: Settings) -> tuple[str | None, str]:
    from app.database import Database, translated
    from app.schema import current_revision, revisions

    database = Database(settings.store_url)
    try:
        with translated():
            return current_revision(database.engine), revisions(settings.migrations_dir)[-1]
    finally:
        database.close()


def _keep_apart(database: Path, file: Path) -> None:
    if file.resolve() == database.resolve():
        raise Stop(f"{file} is the database itself.")
