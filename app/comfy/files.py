"""The files that attempts leave in ComfyUI's folders, where the gateway shares its disk."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

_ID_LENGTH = 36


class EngineFiles:
    """The gateway's own corner of ComfyUI's `input`, `output` and `temp` folders.

    Args:
        directory: ComfyUI's base directory.
        corner: Name of the subfolder that only the gateway writes to.
    """

    def __init__(self, directory: Path, *, corner: str) -> None:
        self._outputs = [directory / folder / corner for folder in ("output", "temp")]
        self._inputs = directory / "input" / corner

    def attempts(self) -> set[str]:
        """Ids of the attempts that have files: each writes under a prefix that is its id."""
        return {path.name[:_ID_LENGTH] for path in self._made() if len(path.name) > _ID_LENGTH}

    def remove_outputs(self, attempts: Collection[str]) -> int:
        """Delete what these attempts wrote, previews and PNGs included; gives how many files."""
        return _remove([path for path in self._made() if path.name[:_ID_LENGTH] in attempts])

    def remove_inputs(self, *, before: float) -> int:
        """Delete inputs last written before a time (seconds since the epoch).

        Only while nothing runs: an input that is there is not uploaded again.
        """
        return _remove([path for path in _files(self._inputs) if _written(path) < before])

    def _made(self) -> list[Path]:
        return [path for folder in self._outputs for path in _files(folder)]


def _files(folder: Path) -> list[Path]:
    """The files of a folder; none of one that is not there, or that may not be read."""
    try:
        return [path for path in folder.iterdir() if path.is_file() and not path.is_symlink()]
    except FileNotFoundError:
        return []
    except OSError as error:
        log.warning("engine folder not read", folder=folder.name, reason=error.strerror)
        return []


def _remove(paths: list[Path]) -> int:
    """Delete what may be deleted: files of another user are ComfyUI's own business."""
    removed = 0
    for path in paths:
        try:
            path.unlink(missing_ok=True)
            removed += 1
        except OSError as error:
            log.warning("engine file not deleted", file=path.name, reason=error.strerror)
    return removed


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return float("inf")
