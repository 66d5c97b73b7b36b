"""Any bytes, any range, once per content, and nothing swept that somebody needs."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, func, select

from app.database import Database
from app.errors import NotFound, StorageFull, StoreUnavailable
from app.media.store import BlobStore
from app.media.tables import Blob, Chunk, Upload
from tests.conftest import Clock

pytestmark = pytest.mark.both_databases

HOUR = timedelta(hours=1)


async def pieces_of(data: bytes, size: int = 700) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def read_all(store: BlobStore, blob_id: int, *range_: int) -> bytes:
    return b"".join([piece async for piece in store.read(blob_id, *range_)])


def counts(session: Session) -> tuple[int, int]:
    return (
        session.exec(select(func.count()).select_from(Blob)).one(),
        session.exec(select(func.count()).select_from(Chunk)).one(),
    )


async def refer(db: Database, clock: Clock, blob_id: int) -> None:
    await db.write(
        lambda session: session.add(
            Upload(
                id=f"u{blob_id}",
                blob_id=blob_id,
                kind="image",
                media_type="image/png",
                width=1,
                height=1,
                frames=1,
                created_at=clock(),
                last_used_at=clock(),
            )
        )
    )


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 2000, 12_345])
async def test_what_was_put_is_read_back_with_its_hash(store: BlobStore, size: int) -> None:
    data = os.urandom(size)
    blob = await store.put(pieces_of(data))
    assert (blob.sha256, blob.size) == (hashlib.sha256(data).hexdigest(), size)
    assert await read_all(store, blob.id) == data
    assert await store.get(blob.id) == blob


@pytest.mark.parametrize("piece", [1, 333, 1000, 5000, 100_000])
async def test_chunks_do_not_depend_on_how_the_bytes_arrive(
    store: BlobStore, db: Database, piece: int
) -> None:
    blob = await store.put(pieces_of(bytes(4500), piece))
    lengths = await db.read(
        lambda session: session.exec(
            select(func.length(Chunk.data))
            .where(col(Chunk.blob_id) == blob.id)
            .order_by(col(Chunk.idx))
        ).all()
    )
    assert list(lengths) == [1000, 1000, 1000, 1000, 500]


async def test_every_range_is_exact(store: BlobStore) -> None:
    data = os.urandom(3210)
    blob = await store.put(pieces_of(data))
    edges = [0, 1, 999, 1000, 1001, 1999, 2000, 3000, 3209, 3210, 9999]
    for start in edges:
        for stop in edges:
            assert await read_all(store, blob.id, start, stop) == data[start:stop], (start, stop)


async def test_the_same_content_is_stored_once(
    store: BlobStore, db: Database, tmp_path: Path
) -> None:
    data = os.urandom(2500)
    first, second = await asyncio.gather(store.put(pieces_of(data)), store.put(pieces_of(data)))
    path = tmp_path / "again"
    path.write_bytes(data)
    third = await store.put_file(path, sha256=first.sha256)
    fourth = await store.put_file(path)
    assert first == second == third == fourth
    assert await db.read(counts) == (1, 3)


async def test_a_blob_is_swept_when_nobody_refers_to_it_for_a_grace(
    store: BlobStore, db: Database, clock: Clock
) -> None:
    kept = await store.put(pieces_of(b"a" * 1500))
    await store.put(pieces_of(b"b" * 2500))
    await refer(db, clock, kept.id)
    assert await store.sweep(grace=HOUR) == 0
    clock.advance(3660)
    assert await store.sweep(grace=HOUR) == 2500
    assert await db.read(counts) == (1, 2)
    assert await read_all(store, kept.id) == b"a" * 1500


async def test_finding_a_blob_by_content_keeps_it_for_another_grace(
    store: BlobStore, clock: Clock
) -> None:
    blob = await store.put(pieces_of(b"again"))
    clock.advance(3540)
    assert await store.find(blob.sha256) == blob
    clock.advance(3540)
    assert await store.sweep(grace=HOUR) == 0
    assert await read_all(store, blob.id) == b"again"


async def test_a_swept_blob_cannot_be_referred_to_and_its_id_is_not_used_again(
    store: BlobStore, db: Database, clock: Clock
) -> None:
    blob = await store.put(pieces_of(b"gone"))
    clock.advance(7200)
    await store.sweep(grace=HOUR)
    with pytest.raises(IntegrityError):
        await refer(db, clock, blob.id)
    with pytest.raises(NotFound):
        await store.get(blob.id)
    assert (await store.put(pieces_of(b"new"))).id > blob.id


async def test_a_write_that_stands_still_is_swept_and_its_writer_told(
    store: BlobStore, db: Database, clock: Clock
) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield bytes(3000)
        clock.advance(7200)
        await store.sweep(grace=HOUR)
        yield bytes(3000)

    with pytest.raises(StoreUnavailable, match="slowly"):
        await store.put(slow())
    assert await db.read(counts) == (0, 0)


async def test_a_write_that_goes_on_is_not_swept(store: BlobStore, clock: Clock) -> None:
    async def steady() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield bytes(3000)
            clock.advance(2400)
            await store.sweep(grace=HOUR)

    blob = await store.put(steady())
    assert await read_all(store, blob.id) == bytes(15_000)


async def test_a_failed_or_canceled_write_leaves_nothing(store: BlobStore, db: Database) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield bytes(3000)
        raise OSError("the client went away")

    with pytest.raises(OSError, match="went away"):
        await store.put(broken())

    entered = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield bytes(3000)
        entered.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.put(endless()))
    await asyncio.wait_for(entered.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await db.read(counts) == (0, 0)


async def test_chunks_that_lost_their_blob_are_swept_in_small_transactions(
    store: BlobStore, db: Database
) -> None:
    def leave(session: Session) -> None:
        for idx in range(150):
            session.add(Chunk(blob_id=7, idx=idx, data=b"x"))

    await db.write(leave)
    await store.sweep(grace=HOUR)
    assert await db.read(counts) == (0, 0)


async def test_a_reader_is_told_when_the_file_goes_while_it_reads(
    store: BlobStore, clock: Clock
) -> None:
    blob = await store.put(pieces_of(bytes(9000)))
    reader = store.read(blob.id)
    assert len(await anext(reader)) == 1000
    clock.advance(7200)
    await store.sweep(grace=HOUR)
    with pytest.raises(NotFound, match="deleted"):
        async for _ in reader:
            pass


@pytest.mark.sqlite_only
async def test_a_full_database_refuses_with_words_and_takes_nothing(
    store: BlobStore, db: Database
) -> None:
    with db.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    await db.write(
        lambda session: session.connection().exec_driver_sql(f"PRAGMA max_page_count={pages + 20}")
    )
    with pytest.raises(StorageFull, match="full"):
        await store.put(pieces_of(bytes(1_000_000)))
    assert await db.read(counts) == (0, 0)


async def test_a_materialized_copy_has_the_bytes_and_goes_afterwards(
    store: BlobStore, tmp_path: Path
) -> None:
    data = os.urandom(4321)
    blob = await store.put(pieces_of(data))
    async with store.materialize(blob.id, tmp_path, suffix=".mp4") as path:
        assert path.read_bytes() == data
        assert path.suffix == ".mp4"
    assert not path.exists()
