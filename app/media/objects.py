"""Objects in S3-compatible storage.

The only file that imports obstore; it is imported only where `GATEWAY_MEDIA_URL` is set.
What the storage does wrong is said as `StoreUnavailable`; its own words go into the log only.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import obstore
import structlog
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from app.errors import Misconfigured, NotFound, StoreUnavailable
from app.media.chunks import PART_BYTES

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

log = structlog.get_logger(__name__)

_PARTS_AT_ONCE = 2
_LINK_VALID = timedelta(minutes=15)
_CHECKED_EVERY_SECONDS = 10.0
_MARKER = "gateway-was-here"

_CLIENT: ClientConfig = {
    "connect_timeout": timedelta(seconds=5),
    "timeout": timedelta(seconds=120),  # of one request: at most a part
    "read_timeout": timedelta(seconds=30),
}
_RETRY: RetryConfig = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2)},
}
"""Short: who asked is told to come again, and what must not be lost is tried again by its owner."""


class ObjectStorage:
    """One bucket, or what lies under a prefix of it. Keys are relative to the prefix."""

    def __init__(
        self,
        url: str,
        *,
        endpoint: str | None = None,
        region: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
    ) -> None:
        """Prepare to use it. Nothing is sent yet.

        Args:
            url: `s3://BUCKET` or `s3://BUCKET/PREFIX`.
            endpoint: URL of a storage that is not Amazon's.
            region: Its region.
            access_key_id: Name of the credential.
            secret_access_key: The credential. What is None comes from `AWS_*` variables.

        Raises:
            Misconfigured: It cannot be used like this.
        """
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc or parts.query:
            raise Misconfigured("GATEWAY_MEDIA_URL must be s3://BUCKET or s3://BUCKET/PREFIX.")
        prefix = parts.path.strip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        given: dict[str, Any] = {
            "endpoint": endpoint,
            "region": region,
            "access_key_id": access_key_id,
            "secret_access_key": secret_access_key,
        }
        config: S3Config = {name: value for name, value in given.items() if value}  # type: ignore[assignment]
        client = _CLIENT
        if endpoint is not None and endpoint.startswith("http://"):
            client = {**_CLIENT, "allow_http": True}
        try:
            self._store = S3Store(
                parts.netloc, config=config, client_options=client, retry_config=_RETRY
            )
        except (BaseError, ValueError) as error:
            raise Misconfigured(f"The object storage cannot be used: {error}") from error
        self._seen_at = float("-inf")

    async def put(self, key: str, data: bytes, *, media_type: str | None) -> None:
        """Write an object of up to `PART_BYTES`. It is there whole or not at all."""
        with _reached():
            await obstore.put_async(
                self._store,
                self._prefix + key,
                data,
                use_multipart=False,
                attributes=_attributes(media_type),
            )

    async def put_parts(
        self, key: str, pieces: AsyncIterable[bytes], *, media_type: str | None
    ) -> None:
        """Write an object of any size, in parts. It is there whole or not at all."""
        with _reached():
            await obstore.put_async(
                self._store,
                self._prefix + key,
                pieces,
                use_multipart=True,
                chunk_size=PART_BYTES,
                max_concurrency=_PARTS_AT_ONCE,
                attributes=_attributes(media_type),
            )

    async def size(self, key: str) -> int | None:
        """Length of an object in bytes; None where there is none."""
        with _reached():
            try:
                return (await obstore.head_async(self._store, self._prefix + key))["size"]
            except FileNotFoundError as error:
                _unless_bucket(error)
                return None

    async def read(self, key: str, start: int, stop: int) -> bytes:
        """The bytes from `start` up to but not including `stop`, in one request.

        Raises:
            NotFound: There is no such object.
        """
        with _reached():
            try:
                found = await obstore.get_range_async(
                    self._store, self._prefix + key, start=start, end=stop
                )
            except FileNotFoundError as error:
                _unless_bucket(error)
                raise NotFound("The file was deleted while it was being read.") from error
        if len(found) != stop - start:
            raise StoreUnavailable("The object storage gave fewer bytes than it has.")
        return bytes(found)

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are not there are deleted already."""
        with _reached():
            await obstore.delete_async(self._store, [self._prefix + key for key in keys])

    async def link(self, key: str) -> str:
        """A URL that gives the object to whoever has it, for a quarter of an hour."""
        with _reached():
            return await obstore.sign_async(
                self._store, "GET", self._prefix + key, expires_in=_LINK_VALID
            )

    async def origin(self) -> str:
        """Scheme and host of such URLs."""
        parts = urlsplit(await self.link(_MARKER))
        return f"{parts.scheme}://{parts.netloc}"

    async def check(self) -> None:
        """See that the storage takes and gives; asked again only after ten seconds.

        Raises:
            StoreUnavailable: It does not.
        """
        if time.monotonic() - self._seen_at < _CHECKED_EVERY_SECONDS:
            return
        try:
            there = await self.size(_MARKER) is not None
        except StoreUnavailable:
            # Who may not list a bucket is refused, not told, that something is not there.
            there = False
        if not there:
            await self.put(_MARKER, b"", media_type=None)
        self._seen_at = time.monotonic()


@contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except (BaseError, FileNotFoundError, TimeoutError) as error:
        log.warning("the object storage failed", reason=str(error)[:500])
        if isinstance(error, PermissionDeniedError | UnauthenticatedError):
            text = "The object storage refuses the gateway's credentials."
        elif isinstance(error, FileNotFoundError):
            text = "The object storage has no such bucket."
        else:
            text = "The object storage does not answer."
        raise StoreUnavailable(f"{text} Send the request again later.", retry_after=10) from error


def _unless_bucket(error: FileNotFoundError) -> None:
    """Raise it again where what is missing is the whole bucket."""
    if "NoSuchBucket" in str(error):
        raise error


def _attributes(media_type: str | None) -> dict[str, str]:
    return {} if media_type is None else {"Content-Type": media_type}
