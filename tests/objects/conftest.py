"""Object storage, and a store that keeps its bytes there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.database import Database
from app.media.store import BlobStore
from tests.api.conftest import dance, photo, stocked, template
from tests.api.conftest import settings as settings  # noqa: PLC0414
from tests.conftest import Clock
from tests.objectkit import Bucket, new_bucket, s3_server

__all__ = ["dance", "photo", "stocked", "template"]


@pytest.fixture(scope="package")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3")) as url:
        yield url


@pytest.fixture
def bucket(endpoint: str) -> Bucket:
    return new_bucket(endpoint)


@pytest.fixture
def store(db: Database, clock: Clock, bucket: Bucket) -> BlobStore:
    """Objects are read in pieces of a kilobyte."""
    storage = bucket.storage()
    return BlobStore(db, now=clock, objects=storage, chunk_bytes=1000, piece_bytes=1000)
