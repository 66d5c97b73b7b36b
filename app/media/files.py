"""Spool files: where bytes wait between a client, a child process and the store."""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
from anyio.to_thread import run_sync

from app.errors import StorageFull

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def storing() -> Iterator[None]:
    """Raise `StorageFull` where the operating system says that a disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise StorageFull(
            "The disk for temporary files is full; nothing was stored. "
            "Free space, then send the request again.",
            retry_after=60,
        ) from error


async def read_file(path: Path, piece_bytes: int) -> AsyncGenerator[bytes]:
    """The file's content in pieces of `piece_bytes`; the last may be shorter."""
    async with await anyio.open_file(path, "rb") as file:
        while piece := await file.read(piece_bytes):
            yield piece


async def unlink(path: Path) -> None:
    """Remove the file if it is there, also while the caller is being canceled."""
    with anyio.CancelScope(shield=True):
        await run_sync(lambda: path.unlink(missing_ok=True))


def clear_spool(directory: Path) -> int:
    """Make the directory if need be and remove what a killed gateway left in it.

    Returns:
        How many files were removed.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    left = [path for path in directory.iterdir() if path.is_file() or path.is_symlink()]
    for path in left:
        path.unlink()
    return len(left)
