"""`steadydancer`: one command for those who serve and those who use the gateway."""

from __future__ import annotations

import sys

import typer

from app.cli import demo, serving
from app.cli.output import EXIT_CODES, ExitCode, Stop, note, note_problem

app = typer.Typer(
    name="steadydancer",
    help="Dance videos from a photo, as a service in front of ComfyUI.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for room in (demo, serving):
    app.add_typer(room.app)


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
    from app.errors import GatewayError

    if isinstance(error, GatewayError):
        note(f"{error.title}: {error.detail}")
        return ExitCode.REFUSED
    from app.client import ClientError, GatewayProblem, GatewayUnreachable

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
        return ExitCode.JOB_FAILED
    if isinstance(error, OSError) and error.filename is not None:
        note(f"{error.filename}: {error.strerror}.")
        return ExitCode.REFUSED
    return None
