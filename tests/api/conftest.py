"""What the API's tests share: files to send, and gateways to send them to."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio
import sqlalchemy as sa

from app.settings import Settings
from tests.apikit import World, opened, serving, settings_in
from tests.mediakit import image_bytes, make_video


@pytest.fixture(scope="session")
def photo() -> bytes:
    return image_bytes("PNG", width=64, height=96)


@pytest.fixture(scope="session")
def dance(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("dance") / "dance.mp4"
    return make_video(path, frames=48, fps=24, audio=True).read_bytes()


@pytest.fixture(scope="session")
def stocked(
    tmp_path_factory: pytest.TempPathFactory, migrated: Path, photo: bytes, dance: bytes
) -> Path:
    """A store in which somebody has uploaded both files: nobody's upload is probed again."""
    settings = settings_in(tmp_path_factory.mktemp("stocked") / "data", migrated)

    async def stock() -> None:
        async with opened(settings, photo, dance) as world:
            await world.media(**await world.key("submit"))
            await world.gateway.db.write(
                lambda session: session.execute(sa.text("DELETE FROM api_key"))
            )

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, stock()).result()
    with closing(sqlite3.connect(settings.data_dir / "gateway.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return settings.data_dir / "gateway.db"


@pytest.fixture
def template(stocked: Path) -> Path:
    """The store that a test begins with; a module may want another."""
    return stocked


@pytest.fixture
def settings(tmp_path: Path, template: Path) -> Settings:
    return settings_in(tmp_path / "data", template)


@pytest.fixture
async def world(settings: Settings, photo: bytes, dance: bytes) -> AsyncIterator[World]:
    async with opened(settings, photo, dance) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared(
    tmp_path_factory: pytest.TempPathFactory, stocked: Path, photo: bytes, dance: bytes
) -> AsyncIterator[World]:
    """One gateway for a module whose tests leave no trace; they run in the module's loop."""
    settings = settings_in(tmp_path_factory.mktemp("shared") / "data", stocked)
    async with opened(settings, photo, dance) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def live(
    tmp_path_factory: pytest.TempPathFactory, stocked: Path, photo: bytes, dance: bytes
) -> AsyncIterator[World]:
    """One served gateway for a module, whose tests run in the module's loop."""
    settings = settings_in(tmp_path_factory.mktemp("live") / "data", stocked)
    async with serving(settings, photo, dance) as made:
        yield made
