"""Model files from the Hugging Face Hub: resumed, checked, and put in place whole.

The Hub's own library finds the file (revision, size, hash, token, mirrors) and speaks HTTP. Its
`hf_hub_download` is not used for the bytes: since version 2 it starts each file anew in a file of
random name and deletes it when it fails, so that a killed download of 11 GB is lost
(`file_download.py`, `_download_to_tmp_and_move`). Nor is Xet, whose downloads are not resumed
either.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import httpx2
from huggingface_hub import constants, get_hf_file_metadata, get_session, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    build_hf_headers,
    hf_raise_for_status,
)

from app.workflows.manifest import ModelFile
from app.workflows.models import sha256_of

Phase = Literal["downloading", "checking", "done"]
Meter = Callable[[int, Phase], None]
"""Told how many bytes are there, and what is being done with them."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""From network file systems; the check at the end stands all the same."""


class DownloadFailed(Exception):
    """A file did not arrive; the text says why and what would help."""


class Stopped(Exception):
    """The operator broke off; what arrived so far stays for the next time."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file as the Hub has it now.

    Attributes:
        url: Where its bytes are; signed and short-lived where a CDN serves them.
        size_bytes: Its size.
        etag: Changes with its bytes.
        sha256: Hash of the bytes where the Hub states it, as it does for large files.
    """

    url: str
    size_bytes: int
    etag: str
    sha256: str | None


class Hub:
    """The Hub, or a mirror of it."""

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        tries: int = 6,
        pause_seconds: float = 1.0,
        timeout_seconds: float = 30.0,
        stop: threading.Event | None = None,
    ) -> None:
        """Prepare; nothing is asked yet.

        Args:
            endpoint: Base URL; default HF_ENDPOINT, or the Hub itself.
            tries: Failures in a row, without a byte between them, after which a file is given up.
            pause_seconds: Before the second try; it doubles each time, to 30 seconds.
            timeout_seconds: Longest silence of the server.
            stop: When set, transfers end with `Stopped` at the next piece.
        """
        self.endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self._tries = tries
        self._pause_seconds = pause_seconds
        self._timeout = httpx2.Timeout(timeout_seconds, connect=min(timeout_seconds, 10.0))
        self.stop = stop or threading.Event()

    def find(self, model: ModelFile) -> Remote:
        """Ask for a file's size and hash, and hold them against the manifest.

        Raises:
            DownloadFailed: It is not there, may not be had, or is another file.
        """
        failures = 0
        while True:
            try:
                remote = self._ask(model)
            except httpx2.HTTPError as error:
                failures += 1
                if _is_final(error) or failures >= self._tries:
                    raise DownloadFailed(self._words(model, error)) from error
                self._pause(failures)
            else:
                _hold_against(model, remote)
                return remote

    def fetch(self, model: ModelFile, remote: Remote, target: Path, *, meter: Meter) -> None:
        """Bring a file into its place; what an earlier try left is gone on with.

        Args:
            model: The file.
            remote: What `find` said.
            target: Where it shall lie; replaced in one step when the file is whole and right.
            meter: Told of each piece.

        Raises:
            DownloadFailed: It did not arrive, or what arrived is wrong.
            Stopped: `stop` was set.
        """
        partial = partial_path(target, remote)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            for other in target.parent.glob(f".{_escaped(target.name)}.*.partial"):
                if other != partial:
                    other.unlink()
            with partial.open("ab") as file, _sole(file, partial):
                self._transfer(model, remote, file, meter)
                file.flush()
                os.fsync(file.fileno())
                self._check(model, remote, partial, meter)
                partial.replace(target)
            _sync(target.parent)
        except httpx2.HTTPError as error:
            raise DownloadFailed(self._words(model, error)) from error
        except OSError as error:
            raise DownloadFailed(f"{target}: {error.strerror or error}.") from error
        meter(remote.size_bytes, "done")

    # --- asking --------------------------------------------------------------------------------

    def _ask(self, model: ModelFile) -> Remote:
        url = hf_hub_url(model.repository, model.path, endpoint=self.endpoint)
        found = get_hf_file_metadata(url, timeout=self._timeout.read, endpoint=self.endpoint)
        if found.size is None or found.etag is None:
            raise DownloadFailed(f"{url} does not look like the Hub: it states no size and ETag.")
        sha256 = found.etag if _SHA256.fullmatch(found.etag) else None
        return Remote(found.location, found.size, found.etag, sha256)

    def _words(self, model: ModelFile, error: httpx2.HTTPError) -> str:
        page = f"{self.endpoint}/{model.repository}"
        if isinstance(error, RemoteEntryNotFoundError):
            why = (
                " The manifest's name follows a pattern and was never seen"
                if not model.verified.name
                else " It was there once"
            )
            return (
                f"{model.repository} has no file {model.path}.{why}: look at {page}/tree/main and "
                "set file and path in workflow.toml right."
            )
        if isinstance(error, GatedRepoError):
            return f"{model.repository} asks for consent: give it at {page} and set HF_TOKEN."
        if isinstance(error, RepositoryNotFoundError):
            return f"There is no repository {model.repository}, or it needs a token: set HF_TOKEN."
        if isinstance(error, HfHubHTTPError):
            return f"{page}: HTTP {error.response.status_code} for {model.path}."
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        return f"{self.endpoint} cannot be reached, or broke off ({reason}). Run it again to go on."

    # --- the bytes -----------------------------------------------------------------------------

    def _transfer(self, model: ModelFile, remote: Remote, file: BinaryIO, meter: Meter) -> None:
        failures = 0
        while (have := file.tell()) < remote.size_bytes:
            meter(have, "downloading")
            try:
                self._append(remote, file, have, meter)
            except httpx2.HTTPError as error:
                failures = 1 if file.tell() > have else failures + 1
                if failures >= self._tries:
                    raise
                self._pause(failures)
                # Signed addresses expire: each new try has one of its own.
                again = self.find(model)
                if again.etag != remote.etag:
                    raise DownloadFailed(
                        f"{model.path} was replaced in {model.repository} meanwhile. Run it again."
                    ) from error
                remote = again
        if file.tell() > remote.size_bytes:
            _empty(file)
            raise DownloadFailed(f"{model.repository} sent more of {model.path} than it stated.")

    def _append(self, remote: Remote, file: BinaryIO, have: int, meter: Meter) -> None:
        headers = {"Accept-Encoding": "identity"}
        if remote.url.startswith(f"{self.endpoint}/"):  # elsewhere the address itself is the key
            headers = {**build_hf_headers(), **headers}
        if have:
            headers["Range"] = f"bytes={have}-"
        with get_session().stream(
            "GET", remote.url, headers=headers, timeout=self._timeout
        ) as answer:
            hf_raise_for_status(answer)
            if answer.status_code == httpx2.codes.PARTIAL_CONTENT:
                header = answer.headers.get("Content-Range", "")
                told = _RANGE.match(header)
                if told is None or (int(told[1]), int(told[2])) != (have, remote.size_bytes):
                    asked = f"bytes {have}- of {remote.size_bytes}"
                    raise httpx2.RemoteProtocolError(f'the server sent "{header}" for {asked}')
            elif have:
                _empty(file)
                have = 0
            for piece in answer.iter_raw():
                if self.stop.is_set():
                    raise Stopped
                have += len(piece)
                if have > remote.size_bytes:
                    _empty(file)
                    raise httpx2.RemoteProtocolError("the server sent more than it stated")
                file.write(piece)
                meter(have, "downloading")
        if have < remote.size_bytes:
            raise httpx2.RemoteProtocolError("the server sent less than it stated")

    def _check(self, model: ModelFile, remote: Remote, partial: Path, meter: Meter) -> None:
        wanted = model.sha256 or remote.sha256
        if wanted is None:
            return
        done = 0

        def on_bytes(count: int) -> None:
            nonlocal done
            if self.stop.is_set():
                raise Stopped
            done += count
            meter(done, "checking")

        got = sha256_of(partial, on_bytes=on_bytes)
        if got != wanted:
            partial.unlink()
            raise DownloadFailed(
                f"{model.file} arrived damaged: SHA-256 {got}, not {wanted}. It was deleted; run "
                "it again."
            )

    def _pause(self, failures: int) -> None:
        if self.stop.wait(min(30.0, self._pause_seconds * 2 ** (failures - 1))):
            raise Stopped


def partial_path(target: Path, remote: Remote) -> Path:
    """Where a file grows: beside its place, hidden, and named for the very bytes it will have."""
    name = re.sub(r"[^0-9A-Za-z]", "", remote.etag)[:16]
    return target.with_name(f".{target.name}.{name}.partial")


def bytes_left(target: Path, remote: Remote) -> int:
    """How much is still to come, with what an earlier try left taken off."""
    partial = partial_path(target, remote)
    have = partial.stat().st_size if partial.is_file() else 0
    return max(0, remote.size_bytes - have)


def _hold_against(model: ModelFile, remote: Remote) -> None:
    if model.verified.size and remote.size_bytes != model.size_bytes:
        raise DownloadFailed(
            f"{model.repository} has another {model.path} than the manifest: "
            f"{remote.size_bytes:,} bytes, not {model.size_bytes:,}. It was not downloaded."
        )
    if model.sha256 is not None and remote.sha256 not in {None, model.sha256}:
        raise DownloadFailed(
            f"{model.repository} has another {model.path} than the manifest: SHA-256 "
            f"{remote.sha256}, not {model.sha256}. It was not downloaded."
        )


def _is_final(error: httpx2.HTTPError) -> bool:
    """Whether asking again is of no use."""
    if not isinstance(error, HfHubHTTPError):
        return isinstance(error, httpx2.UnsupportedProtocol)
    status = error.response.status_code
    return status < 500 and status not in {408, 429}


@contextmanager
def _sole(file: BinaryIO, path: Path) -> Iterator[None]:
    """Hold a growing file, so that two downloads do not write into one another."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DownloadFailed(f"Another download writes {path}.") from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    # Another download may have finished it between the opening and the lock.
    if not path.exists():
        raise DownloadFailed(f"Another download has just finished {path.name}.")
    yield


def _empty(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def _escaped(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # not every network file system syncs folders
            os.fsync(handle)
    finally:
        os.close(handle)
