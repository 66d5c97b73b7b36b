"""`steadydancer workers`: the machines that run the jobs of a shared store.

Works on the store itself, as `keys` does, so that it needs no gateway that answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from app.cli.options import Json
from app.cli.output import Stop, note, say, say_json
from app.cli.serving import read_settings

if TYPE_CHECKING:
    from sqlmodel import Session

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, help="The workers of a shared store (docs/fleet.md).")

Name = Annotated[str, typer.Argument(help="Its name, as `list` shows it.", show_default=False)]


@app.command("list")
def list_(*, as_json: Json = False) -> None:
    """List the workers of the last day: whether they are there, and what they do.

    Try:

        steadydancer workers list
    """
    rows = _in_store(_rows)
    if as_json:
        say_json(rows)
        return
    if not rows:
        note("There are no workers.")
    for row in rows:
        state = "there" if row["present"] else f"gone since {row['last_seen_at']}"
        if row["draining"]:
            state += ", draining"
        say(f"{row['name']:<24} {state}")
        for one in row["engines"]:
            jobs = ", ".join(one["jobs"]) or "no job"
            say(f"  {one['name']:<22} {one['state']:<12} {jobs}")


@app.command()
def drain(*, name: Name, as_json: Json = False) -> None:
    """Have a worker begin no more jobs; those it has go on to their end.

    It obeys within seconds, until `resume`, or until it is started anew.

    Try:

        steadydancer workers drain pod-7
    """
    _set(name, draining=True, as_json=as_json)


@app.command()
def resume(*, name: Name, as_json: Json = False) -> None:
    """Have a drained worker begin jobs again.

    Try:

        steadydancer workers resume pod-7
    """
    _set(name, draining=False, as_json=as_json)


def _set(name: str, *, draining: bool, as_json: bool) -> None:
    def work(session: Session) -> int:
        from app.fleet import roster

        return roster.drain(session, draining=draining, name=name)

    if not _in_store(work):
        raise Stop(f"There is no worker {name!r}. `steadydancer workers list` names them.")
    if as_json:
        say_json({"name": name, "draining": draining})
    else:
        note("It begins no more jobs." if draining else "It begins jobs again.")


def _rows(session: Session) -> list[dict[str, Any]]:
    from app.fleet import roster

    lease = timedelta(seconds=read_settings().worker_lease_seconds)
    there = {worker.name for worker in roster.present(session, lease=lease)}
    return [
        {
            "name": worker.name,
            "present": worker.name in there,
            "draining": worker.draining,
            "version": worker.version,
            "last_seen_at": _text(worker.heartbeat_at),
            "engines": [
                {"name": state.name, "state": state.state, "jobs": list(state.jobs)}
                for state in roster.states([worker])
            ],
        }
        for worker in roster.known(session)
    ]


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _in_store(work: Callable[[Session], T]) -> T:
    from app.cli.store import opened

    settings = read_settings()
    if not settings.is_shared:
        raise Stop(
            "Workers share a store on PostgreSQL, and GATEWAY_DATABASE_URL names none. "
            "`steadydancer serve` on a store of its own runs jobs by itself."
        )
    with opened(settings) as database:
        return asyncio.run(database.write(work))
