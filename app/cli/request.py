"""From what was typed to a typed submission."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from app.cli.options import json_object, pairs, value_of

if TYPE_CHECKING:
    from app.wire import JobRequest

PHOTO, DANCE = "reference_image", "driving_video"
_OPTIONS = {PHOTO: "--image", DANCE: "--video"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A submission as JSON, and the files that go with it."""

    body: dict[str, Any]
    files: dict[str, Path]

    def checked(self) -> JobRequest:
        """The submission as the wire model.

        Raises:
            Stop: A field of it (not of the workflow's request) breaks a rule.
        """
        from pydantic import ValidationError

        from app.cli.output import Stop
        from app.wire import JobRequest

        try:
            return JobRequest.model_validate(self.body)
        except ValidationError as error:
            lines = [
                f"  /{'/'.join(str(part) for part in fault['loc'])}  {fault['msg']}"
                for fault in error.errors(include_url=False)
            ]
            raise Stop("\n".join(["The request breaks a rule.", *lines])) from error


def put_together(
    *,
    base: Path | None,
    fields: Mapping[str, Any],
    sets: list[str],
    media: Mapping[str, str | None],
    more_media: list[str],
    envelope: Mapping[str, Any],
) -> Asked:
    """Build a submission.

    Args:
        base: File with a request as JSON; what else is given takes the place of its fields.
        fields: Fields of the request that have an option of their own; None is not given.
        sets: `NAME=VALUE` for any other field.
        media: Media field to file, URL or `upload:ID`.
        more_media: `FIELD=PATH` for other media fields.
        envelope: What stands beside the request; None is not given.

    Raises:
        BadParameter: Something cannot be read, or a file is not there.
    """
    request: dict[str, Any] = json_object(base, "--request") if base is not None else {}
    request |= {name: value for name, value in fields.items() if value is not None}
    request |= {name: value_of(text) for name, text in pairs(sets, "--set").items()}
    files: dict[str, Path] = {}
    sources = {name: source for name, source in media.items() if source is not None}
    for name, source in (sources | pairs(more_media, "--file")).items():
        if source.startswith(("http://", "https://")):
            request[name] = {"url": source}
        elif source.startswith("upload:"):
            request[name] = {"upload_id": source.removeprefix("upload:")}
        elif Path(source).is_file():
            files[name] = Path(source)
        else:
            hint = _OPTIONS.get(name, f"--file {name}")
            raise typer.BadParameter(f"There is no file {source}.", param_hint=hint)
    body = {"request": request} | {
        name: value for name, value in envelope.items() if value is not None and value != {}
    }
    return Asked(body, files)
