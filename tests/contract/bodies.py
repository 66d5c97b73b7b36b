"""The bodies of recorded requests, made again."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.contract.normal import Names
from tests.mediakit import image_bytes, make_video

OVER_A_MEBIBYTE = 1_200_000


def of(event: dict[str, Any], names: Names) -> dict[str, Any]:
    """What to give httpx for the body of a recorded request."""
    request = event.get("request")
    if isinstance(request, dict) and "multipart/form-data" in request:
        return {"files": [_part(part) for part in request["multipart/form-data"]]}
    if request is None or request == "empty body":
        return {}
    if request == "1.2 MB of JSON":
        return {"content": json.dumps({"prompt": "x" * OVER_A_MEBIBYTE}).encode()}
    if isinstance(request, str):
        return {"content": request.encode()}
    return {"json": json.loads(names.rename(json.dumps(request)))}


def _part(part: dict[str, Any]) -> tuple[str, Any]:
    if "filename" not in part:
        return part["field"], (None, part["value"])
    # The recording's client wrote slashes in file names this way.
    name = part["filename"].replace("/", "%2F")
    return part["field"], (name, content(name, part["bytes"]), part["content_type"])


def content(name: str, size: int) -> bytes:
    """Bytes of the recorded kind: another size of the same name is another content."""
    if size == 0:
        return b""
    if name.startswith("corrupt"):
        return b"not media" + bytes(size)
    if name.endswith(".png"):
        return _picture() + bytes(size % 7)
    if name.endswith(".mp4") and size < 100_000:
        return _dance()
    return os.urandom(16) + bytes(size - 16) if size > 16 else b"x" * size


@cache
def _picture() -> bytes:
    return image_bytes()


@cache
def _dance() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "dance.mp4"
        make_video(path, width=64, height=112, frames=32, fps=16)
        return path.read_bytes()
