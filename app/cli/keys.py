"""`keys`: who may call. Works on the store itself, so that the first key needs no key."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from app.access.scopes import Scope
from app.cli.options import Json
from app.cli.output import note, say, say_json

if TYPE_CHECKING:
    from sqlmodel import Session

    from app.access.keys import KeyView

T = TypeVar("T")

app = typer.Typer(
    name="keys",
    help="API keys, in the store of this machine (GATEWAY_DATA_DIR).",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@app.command()
def create(
    *,
    name: Annotated[str, typer.Argument(help="What people call it.", show_default=False)],
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="submit, read or admin; default submit and read. Repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it, this once.

    A running gateway takes it at once. The first key ends the free access from this machine.

    Try:

        steadydancer keys create ops --scope admin
    """
    from app.access import keys

    scopes = scope or [Scope.SUBMIT, Scope.READ]
    made = in_store(
        lambda session: keys.create(session, name=name, scopes=scopes, now=datetime.now(UTC))
    )
    if as_json:
        say_json({**_view(made.view), "key": made.key})
    else:
        note(f"Key {made.view.id} ({name}), shown this once:")
        say(made.key)


@app.command("list")
def list_(*, as_json: Json = False) -> None:
    """List the keys, without their secrets.

    Try:

        steadydancer keys list
    """
    from app.access import keys

    found = in_store(keys.list_keys)
    if as_json:
        say_json([_view(view) for view in found])
        return
    if not found:
        note("There are no keys.")
    for view in found:
        used = f"used {view.last_used_at:%Y-%m-%d %H:%M}" if view.last_used_at else "never used"
        state = f"revoked {view.revoked_at:%Y-%m-%d %H:%M}" if view.revoked_at else used
        say(f"{view.id}  {view.name:<20} {','.join(view.scopes):<18} {state}")


@app.command()
def revoke(
    *,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Its id.", show_default=False)],
    as_json: Json = False,
) -> None:
    """End a key. A running gateway notices within seconds.

    Try:

        steadydancer keys revoke 3f2a9c0d1e4b
    """
    from app.access import keys

    view = in_store(lambda session: keys.revoke(session, key_id, now=datetime.now(UTC)))
    if as_json:
        say_json(_view(view))
    else:
        note("Revoked.")


def in_store(work: Callable[[Session], T]) -> T:
    """Do one transaction on the store of the settings, which a gateway may be using."""
    import asyncio

    from app.cli.serving import read_settings
    from app.cli.store import opened

    with opened(read_settings()) as db:
        return asyncio.run(db.write(work))


def _view(view: KeyView) -> dict[str, Any]:
    from dataclasses import asdict

    from pydantic_core import to_jsonable_python

    return dict(to_jsonable_python(asdict(view)))
