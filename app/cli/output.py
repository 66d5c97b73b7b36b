"""Words for people on standard error, results on standard output, and exit codes for scripts."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from enum import IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel

    from app import wire


class ExitCode(IntEnum):
    """What a script can learn from how a command ended."""

    OK = 0
    JOB_FAILED = 1
    REFUSED = 2
    UNREACHABLE = 3
    CANCELED = 4
    UNFINISHED = 5
    INTERRUPTED = 130


EXIT_CODES = (
    "Exit codes: 0 done · 1 the job failed · 2 wrong usage, or the request was refused · 3 the "
    "gateway cannot be reached or cannot answer · 4 the job was canceled · 5 not ended in time · "
    "130 interrupted."
)

_OUTCOMES = {
    "succeeded": ExitCode.OK,
    "failed": ExitCode.JOB_FAILED,
    "canceled": ExitCode.CANCELED,
}


class Stop(Exception):
    """Ends the command with a sentence and an exit code."""

    def __init__(self, detail: str, code: ExitCode = ExitCode.REFUSED) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code


def say(text: str = "") -> None:
    """Print a result."""
    print(text, flush=True)


def note(text: str = "") -> None:
    """Print something for people, beside the result."""
    print(text, file=sys.stderr, flush=True)


def say_json(value: BaseModel | Any) -> None:  # noqa: ANN401 - whatever JSON can hold
    """Print a result as JSON."""
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json")
    print(json.dumps(value, indent=2, ensure_ascii=False))


def say_line(value: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
    """Print a result as one line of JSON, at once."""
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json")
    print(json.dumps(value, ensure_ascii=False), flush=True)


def note_problem(problem: wire.Problem, *, as_json: bool) -> None:
    """Print why the gateway refused, with the fields at fault."""
    if as_json:
        print(problem.model_dump_json(indent=2), file=sys.stderr)
        return
    note(f"{problem.title} ({problem.code}).")
    if not problem.errors:
        note(_wrapped(f"  {problem.detail}", indent=2))
        return
    width = max(len(fault.pointer) for fault in problem.errors)
    for fault in problem.errors:
        note(_wrapped(f"  {fault.pointer:<{width}}  {fault.detail}", indent=width + 4))


def _wrapped(text: str, *, indent: int) -> str:
    """A paragraph as a terminal shows it well; in a file it stays one line."""
    if not sys.stderr.isatty():
        return text
    columns = shutil.get_terminal_size().columns
    return textwrap.fill(
        text,
        width=max(columns - 1, indent + 30),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def note_failure(job: wire.Job) -> None:
    """Print why a job failed."""
    if job.error is None:
        return
    place = f", node {job.error.node_id} ({job.error.node_type})" if job.error.node_id else ""
    note(f"{job.error.title} ({job.error.type}{place}).")
    note(f"  {job.error.detail}")
    note(f"  {job.error.advice}")


def outcome(job: wire.Job) -> ExitCode:
    """The exit code that says how a job ended."""
    return _OUTCOMES.get(job.status, ExitCode.UNFINISHED)


# --- figures -------------------------------------------------------------------------------------


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def duration(seconds: float | None) -> str:
    """A length of time for people."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    if whole < 86_400:
        return f"{whole // 3600}:{whole % 3600 // 60:02d} h"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"
