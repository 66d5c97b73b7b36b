"""Downloads that go on where they stopped, and are in place only when they are whole."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

from app import wire
from app.client.calls import Call, OnBytes, Pause, Reply, Retry, Script, problem_of, send
from app.client.errors import DownloadFailed, GatewayProblem, GatewayUnreachable
from app.client.operations import FilePath, artifact_path, get

_PIECE = 1 << 20
_TRIES = 2
"""A file whose hash is wrong is fetched once more from its beginning."""


def download(
    job_id: str,
    target: FilePath,
    retry: Retry,
    *,
    artifact: str,
    on_bytes: OnBytes | None,
) -> Script[wire.Artifact]:
    """Fetch one artifact to a file.

    Raises:
        DownloadFailed: The job has no such artifact, or what arrived is not it.
    """
    job = yield from get(job_id, retry)
    wanted = next((one for one in job.artifacts if one.name == artifact), None)
    if wanted is None:
        names = ", ".join(one.name for one in job.artifacts) or "none"
        raise DownloadFailed(
            f"The job {job_id} is {job.status} and has no artifact {artifact!r}; there are {names}."
        )
    path = Path(target)
    if is_there(path, wanted):
        if on_bytes is not None:
            on_bytes(wanted.bytes, wanted.bytes)
        return wanted
    for _ in range(_TRIES):
        partial = _Partial(path, wanted, on_bytes)
        try:
            yield from _fetch(artifact_path(job_id, artifact), partial, wanted, retry)
        finally:
            partial.close()
        if partial.finish():
            return wanted
    raise DownloadFailed(f"What arrived of {path.name} has another SHA-256 than announced.")


def _fetch(path: str, partial: _Partial, wanted: wire.Artifact, retry: Retry) -> Script[None]:
    """Ask for what is missing until nothing is; whatever arrives starts the patience again."""
    pauses = retry.pauses()
    next(pauses)
    while (have := partial.size) < wanted.bytes:
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": f'"{wanted.sha256}"'}
        failure: GatewayProblem | GatewayUnreachable | None = None
        asked = 0.0
        try:
            reply = yield from send(Call(method="GET", path=path, headers=headers, sink=partial))
        except GatewayUnreachable as error:
            failure = error
        else:
            if reply.status >= 400:
                failure = problem_of(reply)
                if failure.status not in {429, 502, 503, 504}:
                    raise failure
                asked = failure.retry_after or 0.0
        if partial.size > have:
            pauses = retry.pauses()
            next(pauses)
        if partial.size < wanted.bytes:
            try:
                yield Pause(pauses.send(asked))
            except StopIteration:
                raise failure or DownloadFailed("The file ended early.") from None


class _Partial:
    """The file beside the target that grows until it is whole.

    Its name holds the content's hash, so that what is left of another file is never taken up.
    """

    def __init__(self, target: Path, wanted: wire.Artifact, on_bytes: OnBytes | None) -> None:
        self.size = 0
        self._target = target
        self._wanted = wanted
        self._on_bytes = on_bytes
        self._hash = hashlib.sha256()
        self.path = target.with_name(f".{target.name}.{wanted.sha256[:16]}.partial")
        self._file: BinaryIO = self.path.open("a+b")
        self._file.seek(0)
        while piece := self._file.read(_PIECE):
            self._hash.update(piece)
            self.size += len(piece)
        if self.size > wanted.bytes:
            self._start_over()

    def begin(self, reply: Reply) -> None:
        """Start over where the gateway sends the whole."""
        if reply.status != 206:
            self._start_over()

    def write(self, data: bytes) -> None:
        """Take the next piece."""
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)
        if self._on_bytes is not None:
            self._on_bytes(min(self.size, self._wanted.bytes), self._wanted.bytes)

    def close(self) -> None:
        """Keep what there is, for the next time."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def finish(self) -> bool:
        """Put the file in its place if it is the right one; else throw it away."""
        if self._hash.hexdigest() != self._wanted.sha256:
            self.path.unlink()
            return False
        self.path.replace(self._target)
        return True

    def _start_over(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.size = 0


def is_there(path: Path, wanted: wire.Artifact) -> bool:
    """Whether a file holds exactly this artifact."""
    if not path.is_file() or path.stat().st_size != wanted.bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == wanted.sha256
