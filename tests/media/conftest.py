"""A store with tiny chunks over a real database, and real child processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from app.database import Database
from app.media.limits import MediaLimits
from app.media.sandbox import Sandbox
from app.media.store import BlobStore
from tests.conftest import Clock


@pytest.fixture
def store(db: Database, clock: Clock) -> BlobStore:
    return BlobStore(db, now=clock, chunk_bytes=1000)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    directory = tmp_path / "spool"
    directory.mkdir()
    return directory


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    """One nursery for the module: each file still has a child of its own."""
    box = Sandbox(limits=MediaLimits())
    yield box
    await box.aclose()
