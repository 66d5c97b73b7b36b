"""Input files by the names that graphs use."""

from __future__ import annotations

from pathlib import Path

KINDS = ("input", "output", "temp")
UPLOADS = frozenset({"LoadImage", "LoadImageMask", "LoadVideo", "VHS_LoadVideo"})
"""Classes that read a file somebody uploaded."""


def locate(directory: Path, name: str) -> Path:
    """Where a named file would lie; `name [output]` lies in the output folder."""
    for kind in KINDS:
        ending = f" [{kind}]"
        if name.endswith(ending):
            return directory / kind / name.removesuffix(ending)
    return directory / "input" / name


def present(directory: Path, name: str) -> bool:
    """Whether the file is there; a name that cannot be a file's is not."""
    try:
        path = locate(directory, name).resolve()
        return path.is_relative_to(directory.resolve()) and path.is_file()
    except (OSError, ValueError):
        return False
