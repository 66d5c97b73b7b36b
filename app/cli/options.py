"""Options that several commands share, and the client that they ask for."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from app.client import GatewayClient

Url = Annotated[
    str, typer.Option("--url", envvar="STEADYDANCER_URL", help="Base URL of the gateway.")
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="STEADYDANCER_KEY",
        help="API key. Better in the environment: others see a command line.",
        show_default=False,
        show_envvar=True,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JobId = Annotated[str, typer.Argument(help="Id of the job.", metavar="JOB", show_default=False)]

DEFAULT_URL = "http://127.0.0.1:8000"

_QUICK_SECONDS = 2.0
_PATIENT_SECONDS = 60.0


def connect(url: str, key: str | None, *, patient: bool = False) -> GatewayClient:
    """A client.

    Args:
        url: Base URL.
        key: API key.
        patient: Bear with a gateway that is restarted meanwhile: for commands that wait.
    """
    from app.client import GatewayClient, Retry

    seconds = _PATIENT_SECONDS if patient else _QUICK_SECONDS
    return GatewayClient(url, key=key, retry=Retry(seconds=seconds))


def is_terminal() -> bool:
    """Whether a person looks at the progress that is printed."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def pairs(texts: list[str], option: str) -> dict[str, str]:
    """`NAME=VALUE`, several.

    Raises:
        BadParameter: One has no name or no equals sign.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE.", param_hint=option)
        found[name] = value
    return found


def value_of(text: str) -> Any:  # noqa: ANN401 - JSON
    """A value as typed on a command line: JSON where it is JSON, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def json_object(path: Path, option: str) -> dict[str, Any]:
    """A JSON object from a file; `-` is standard input.

    Raises:
        BadParameter: It cannot be read, or is no object.
    """
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
        value = json.loads(text)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{path}: {error}.", param_hint=option) from error
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{path} does not hold a JSON object.", param_hint=option)
    return value
