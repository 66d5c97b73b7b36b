"""`steadydancer`: one command for those who serve and those who use the gateway."""

from __future__ import annotations

import sys

import typer

from app.cli import catalog, demo, doctor, jobs, keys, serving, submitting
from app.cli.lazy import RootGroup
from app.cli.options import Json
from app.cli.output import EXIT_CODES, ExitCode, Stop, note, note_problem, say, say_json

app = typer.Typer(
    name="steadydancer",
    cls=RootGroup,
    help="Dance videos from a photo, as a service in front of ComfyUI.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for room in (demo, serving, submitting, jobs, doctor):
    app.add_typer(room.app)
for group in (catalog, keys):
    app.add_typer(group.app)


@app.command()
def version(*, as_json: Json = False) -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    found = installed("steadydancer-gateway")
    if as_json:
        say_json({"version": found})
    else:
        say(found)


def main() -> None:
    """Run the command line; every foreseen failure ends in words and an exit code."""
    try:
        app()
    except Exception as error:
        code = _explain(error)
        if code is None:
            raise
        sys.exit(code)


def _explain(error: Exception) -> ExitCode | None:
    """Say what went wrong; None for what nobody foresaw, which is a bug and keeps its trace."""
    if isinstance(error, Stop):
        note(error.detail)
        return error.code
    if isinstance(error, OSError) and error.filename is not None:
        note(f"{error.filename}: {error.strerror}.")
        return ExitCode.REFUSED
    return _explain_call(error) or _explain_start(error)


def _explain_call(error: Exception) -> ExitCode | None:
    """What a gateway that was called, or was not there, has to say."""
    from app.client import ClientError, GatewayProblem, GatewayUnreachable, InvalidArgument

    if isinstance(error, GatewayProblem):
        note_problem(error.problem, as_json="--json" in sys.argv)
        if error.retry_after is not None:
            note(f"  Try again in {error.retry_after:g} seconds.")
        return ExitCode.UNREACHABLE if error.status >= 500 else ExitCode.REFUSED
    if isinstance(error, GatewayUnreachable):
        note(f"{error} Start one with `steadydancer serve`, or name another with --url.")
        return ExitCode.UNREACHABLE
    if isinstance(error, ClientError):
        note(str(error))
        return ExitCode.REFUSED if isinstance(error, InvalidArgument) else ExitCode.JOB_FAILED
    return None


def _explain_start(error: Exception) -> ExitCode | None:
    """Why a gateway, or a part of one, cannot be used here."""
    from app.errors import GatewayError
    from app.gpu.card import CardUnreadable
    from app.workflows.manifest import ManifestError

    if isinstance(error, GatewayError):
        note(f"{error.title}: {error.detail}")
        return ExitCode.REFUSED
    if isinstance(error, CardUnreadable | ManifestError):
        note(str(error))
        return ExitCode.REFUSED
    return None
