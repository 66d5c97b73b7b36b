"""An S3 server in a process of its own, started once for all tests that want one."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import obstore
from obstore.store import S3Store

from app.media.objects import ObjectStorage
from app.settings import Settings
from tests.chaos.processes import until

_CREDENTIALS = {"access_key_id": "test", "secret_access_key": "test", "region": "us-east-1"}


@dataclass(frozen=True)
class Bucket:
    """A bucket of a test's own, seen as the gateway sees it and from outside."""

    endpoint: str
    name: str

    @property
    def url(self) -> str:
        return f"s3://{self.name}/media"

    def storage(self, endpoint: str | None = None) -> ObjectStorage:
        return ObjectStorage(self.url, endpoint=endpoint or self.endpoint, **_CREDENTIALS)

    def settings(self) -> dict[str, str]:
        return {
            "media_url": self.url,
            "media_endpoint": self.endpoint,
            "media_region": "us-east-1",
            "media_access_key_id": "test",
            "media_secret_access_key": "test",
        }

    def applied(self, settings: Settings, **more: str) -> Settings:
        return Settings.model_validate({**settings.model_dump(), **self.settings(), **more})

    @property
    def _seen(self) -> S3Store:
        client = {"allow_http": True}
        return S3Store(self.name, endpoint=self.endpoint, client_options=client, **_CREDENTIALS)  # type: ignore[arg-type]

    def keys(self) -> list[str]:
        """The objects that are there, but for the gateway's marker."""
        found = [one["path"] for page in obstore.list(self._seen) for one in page]
        return sorted(key for key in found if not key.endswith("gateway-was-here"))

    def overwrite(self, key: str, data: bytes) -> None:
        obstore.put(self._seen, key, data)

    def remove(self, key: str) -> None:
        obstore.delete(self._seen, key)


@contextmanager
def s3_server(directory: Path) -> Iterator[str]:
    """Start moto's server, give its URL, stop it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (directory / "s3.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=log,
            stderr=log,
        )
        try:
            url = f"http://127.0.0.1:{port}"

            def answers() -> bool:
                assert process.poll() is None, "the S3 server ended"
                with suppress(httpx.TransportError):
                    return httpx.get(url, trust_env=False).status_code == 200
                return False

            until(answers, seconds=60, what="an S3 server that answers")
            yield url
        finally:
            process.terminate()
            process.wait()


def new_bucket(endpoint: str) -> Bucket:
    bucket = Bucket(endpoint, f"test-{uuid4().hex}")
    answer = httpx.put(f"{endpoint}/{bucket.name}", trust_env=False)
    assert answer.status_code == 200, answer.text
    return bucket


def nowhere() -> str:
    """Where no storage answers."""
    return "http://127.0.0.1:9"


def is_at(link: str, bucket: Bucket) -> bool:
    return urlsplit(link).netloc == urlsplit(bucket.endpoint).netloc
