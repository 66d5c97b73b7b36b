"""Where a video goes that is too large for an answer: object storage, and a link that expires.

Credentials and endpoint come from the variables that every S3 client knows (`AWS_ACCESS_KEY_ID`,
`AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT_URL`); obstore reads them itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import obstore
import structlog
from obstore.exceptions import BaseError
from obstore.store import S3Store

from app.errors import Misconfigured, StoreUnavailable

log = structlog.get_logger(__name__)


class VideoStore:
    """A bucket, or a folder of one.

    Args:
        url: Such as `s3://bucket/folder`.
        link_seconds: How long links are good.

    Raises:
        Misconfigured: The URL names no bucket, or a variable of the storage has a wrong value.
    """

    def __init__(self, url: str, *, link_seconds: float) -> None:
        if not url.startswith("s3://"):
            raise Misconfigured(
                f"GATEWAY_SERVERLESS_STORE is {url!r}; it must name a bucket, such as "
                "s3://bucket/folder."
            )
        try:
            self._store = S3Store.from_url(url)
        except (BaseError, ValueError) as error:
            raise Misconfigured(f"GATEWAY_SERVERLESS_STORE cannot be used: {error}") from error
        self._link = timedelta(seconds=link_seconds)

    async def put(self, name: str, pieces: AsyncIterator[bytes]) -> str:
        """Store an mp4 and give a link to it, good for anybody who has it until it expires.

        Raises:
            StoreUnavailable: The storage refuses it or does not answer.
        """
        try:
            await obstore.put_async(
                self._store, name, pieces, attributes={"Content-Type": "video/mp4"}
            )
            return await obstore.sign_async(self._store, "GET", name, expires_in=self._link)
        except BaseError as error:
            log.warning("the video cannot be uploaded", reason=str(error))  # the client learns less
            raise StoreUnavailable(
                "The object storage of GATEWAY_SERVERLESS_STORE did not take the video; the "
                "worker's log has the reason.",
                retry_after=60,
            ) from error
