"""Bytes in object storage: the same promises as in the database, and no object is forgotten."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, select

from app.database import Database
from app.errors import NotFound, StoreUnavailable
from app.media.chunks import PART_BYTES
from app.media.moving import Moved, Mover
from app.media.store import BlobStore
from app.media.tables import Blob, LooseObject
from tests.conftest import Clock
from tests.media.test_store import counts, pieces_of, read_all, refer
from tests.objectkit import Bucket, nowhere

HOUR = timedelta(hours=1)


def loose(session: Session) -> list[str]:
    return list(session.exec(select(LooseObject.key)).all())


async def test_what_was_put_is_read_back_with_its_hash_and_in_every_range(
    store: BlobStore, db: Database, bucket: Bucket
) -> None:
    data = os.urandom(3210)
    blob = await store.put(pieces_of(data))
    assert (blob.sha256, blob.size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert bucket.keys() == [f"media/{blob.object_key}"]
    assert await db.read(counts) == (1, 0)
    assert await db.read(loose) == []
    for start, stop in ((0, 3210), (0, 1), (999, 1001), (1000, 2000), (3209, 9999), (3210, 3211)):
        assert await read_all(store, blob.id, start, stop) == data[start:stop], (start, stop)
    empty = await store.put(pieces_of(b""))
    assert await read_all(store, empty.id) == b""


async def test_a_large_file_goes_in_parts_and_is_named_by_its_hash(
    store: BlobStore, clock: Clock, db: Database, bucket: Bucket, tmp_path: Path
) -> None:
    data = os.urandom(1 << 20) * 17 + b"end"
    assert len(data) > 2 * PART_BYTES
    path = tmp_path / "large"
    path.write_bytes(data)
    blob = await store.put_file(path, media_type="video/mp4")
    assert blob.sha256 == hashlib.sha256(data).hexdigest()
    assert (blob.object_key or "").startswith(f"{blob.sha256}/")
    quick = BlobStore(db, now=clock, objects=bucket.storage())
    assert await read_all(quick, blob.id) == data


async def test_the_same_content_is_kept_once(
    store: BlobStore, db: Database, bucket: Bucket, tmp_path: Path
) -> None:
    data = os.urandom(2500)
    first, second = await asyncio.gather(store.put(pieces_of(data)), store.put(pieces_of(data)))
    path = tmp_path / "again"
    path.write_bytes(data)
    assert first == second == await store.put_file(path)
    await store.sweep(grace=HOUR)
    assert len(bucket.keys()) == 1
    assert await db.read(loose) == []


async def test_an_unneeded_object_goes_after_its_row_and_its_id_is_not_used_again(
    store: BlobStore, db: Database, clock: Clock, bucket: Bucket
) -> None:
    kept = await store.put(pieces_of(b"a" * 1500))
    gone = await store.put(pieces_of(b"b" * 2500))
    await refer(db, clock, kept.id)
    clock.advance(3660)
    assert await store.sweep(grace=HOUR) == 2500
    assert bucket.keys() == [f"media/{kept.object_key}"]
    with pytest.raises(NotFound):
        await store.get(gone.id)
    with pytest.raises(IntegrityError):
        await refer(db, clock, gone.id)
    assert (await store.put(pieces_of(b"b" * 2500))).object_key != gone.object_key


async def test_an_object_that_cannot_be_deleted_now_is_deleted_later(
    store: BlobStore, db: Database, clock: Clock, bucket: Bucket
) -> None:
    blob = await store.put(pieces_of(b"later"))
    clock.advance(7200)
    away = BlobStore(db, now=clock, objects=bucket.storage(nowhere()))
    assert await away.sweep(grace=HOUR) == 5
    assert await db.read(counts) == (0, 0)
    assert await db.read(loose) == [blob.object_key]
    await store.sweep(grace=HOUR)
    assert bucket.keys() == []
    assert await db.read(loose) == []


async def test_a_write_that_was_killed_leaves_an_object_that_the_sweep_finds(
    store: BlobStore, db: Database, clock: Clock, bucket: Bucket
) -> None:
    # The gateway dies after the bytes, before the row: only what stands in the database is known.
    written = await store._loose.write(  # type: ignore[union-attr]
        pieces_of(b"orphan"), sha256=None, media_type=None
    )
    assert bucket.keys() == [f"media/{written.key}"]
    await store.sweep(grace=HOUR)
    assert len(bucket.keys()) == 1
    clock.advance(3660)
    await store.sweep(grace=HOUR)
    assert bucket.keys() == []
    assert await db.read(loose) == []


async def test_a_write_that_fails_is_told_as_it_is_and_leaves_no_row(
    store: BlobStore, db: Database, clock: Clock, bucket: Bucket
) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield bytes(PART_BYTES + 1)
        raise OSError("the client went away")

    async def slow() -> AsyncIterator[bytes]:
        yield bytes(PART_BYTES + 1)
        clock.advance(7200)
        await store.sweep(grace=HOUR)
        yield bytes(PART_BYTES)

    with pytest.raises(OSError, match="went away"):
        await store.put(broken())
    with pytest.raises(StoreUnavailable, match="slowly"):
        await store.put(slow())
    clock.advance(7200)
    await store.sweep(grace=HOUR)
    assert await db.read(counts) == (0, 0)
    assert await db.read(loose) == []
    assert bucket.keys() == []


async def test_a_storage_that_is_away_is_said_in_words_and_writes_nothing(
    db: Database, clock: Clock, bucket: Bucket, store: BlobStore
) -> None:
    blob = await store.put(pieces_of(b"there"))
    away = BlobStore(db, now=clock, objects=bucket.storage(nowhere()))
    with pytest.raises(StoreUnavailable, match="does not answer") as caught:
        await read_all(away, blob.id)
    assert caught.value.retry_after
    with pytest.raises(StoreUnavailable):
        await away.put(pieces_of(b"new"))
    with pytest.raises(StoreUnavailable):
        await away.check()
    await store.check()
    unset = BlobStore(db, now=clock)
    with pytest.raises(StoreUnavailable, match="GATEWAY_MEDIA_URL"):
        await read_all(unset, blob.id)
    bucket.remove(f"media/{blob.object_key}")
    with pytest.raises(NotFound):
        await read_all(store, blob.id)


# --- moving --------------------------------------------------------------------------------------


async def move(mover: Mover, to: str) -> Moved:
    return await mover.move(to, on_file=lambda _: None)  # type: ignore[arg-type]


async def test_media_move_out_and_back_under_readers_and_keep_their_ids(
    db: Database, clock: Clock, bucket: Bucket, store: BlobStore
) -> None:
    inside = BlobStore(db, now=clock, objects=bucket.storage(), new_in_objects=False,
                       chunk_bytes=1000)  # fmt: skip
    contents = [os.urandom(3500), os.urandom(10), b""]
    blobs = [await inside.put(pieces_of(data)) for data in contents]
    for blob in blobs:
        await refer(db, clock, blob.id)
    mover = Mover(db, bucket.storage(), clock)
    assert await mover.pending("objects") == (3, 3510)
    reader = store.read(blobs[0].id)
    begun = await anext(reader)
    assert (await move(mover, "objects")).files == 3
    assert await db.read(counts) == (3, 0)
    assert len(bucket.keys()) == 3
    assert begun + b"".join([piece async for piece in reader]) == contents[0]

    reader = store.read(blobs[0].id)
    begun = await anext(reader)
    assert (await move(mover, "database")).size == 3510
    clock.advance(3660)
    await store.sweep(grace=HOUR)
    assert bucket.keys() == []
    assert await db.read(counts) == (3, 5)
    assert begun + b"".join([piece async for piece in reader]) == contents[0]
    for blob, data in zip(blobs, contents, strict=True):
        assert await read_all(store, blob.id) == data
    assert await mover.pending("database") == (0, 0)


@pytest.mark.parametrize("to", ["objects", "database"])
async def test_a_move_that_is_broken_off_goes_on_and_leaves_nothing(
    db: Database, clock: Clock, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    first = BlobStore(db, now=clock, objects=bucket.storage(), new_in_objects=to == "database",
                      chunk_bytes=1000)  # fmt: skip
    contents = [os.urandom(2500), os.urandom(3500)]
    blobs = [await first.put(pieces_of(data)) for data in contents]
    for blob in blobs:
        await refer(db, clock, blob.id)

    def die(*_: object) -> bool:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("app.media.moving._name", die)
        patch.setattr("app.media.moving._bring_in", die)
        with pytest.raises(RuntimeError, match="killed"):
            await move(Mover(db, bucket.storage(), clock), to)
    assert await read_all(first, blobs[0].id) == contents[0]
    moved = await move(Mover(db, bucket.storage(), clock), to)
    assert (moved.files, moved.damaged) == (2, [])
    clock.advance(3660)
    await first.sweep(grace=HOUR)
    assert len(bucket.keys()) == (2 if to == "objects" else 0)
    assert await db.read(counts) == ((2, 0) if to == "objects" else (2, 7))
    for blob, data in zip(blobs, contents, strict=True):
        assert await read_all(first, blob.id) == data


async def test_chunks_of_a_killed_move_are_swept_when_nobody_goes_on(
    store: BlobStore, db: Database, clock: Clock, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = await store.put(pieces_of(os.urandom(2500)))
    await refer(db, clock, blob.id)

    def die(*_: object) -> bool:
        raise RuntimeError("killed")

    monkeypatch.setattr("app.media.moving._bring_in", die)
    with pytest.raises(RuntimeError, match="killed"):
        await move(Mover(db, bucket.storage(), clock), "database")
    await store.sweep(grace=HOUR)
    assert await db.read(counts) == (1, 3)
    clock.advance(3660)
    await store.sweep(grace=HOUR)
    assert await db.read(counts) == (1, 0)


async def test_a_damaged_file_is_named_and_stays_where_it_is(
    store: BlobStore, db: Database, clock: Clock, bucket: Bucket
) -> None:
    good, bad, gone = [await store.put(pieces_of(bytes([n]) * 1500)) for n in range(3)]
    for blob in (good, bad, gone):
        await refer(db, clock, blob.id)
    bucket.overwrite(f"media/{bad.object_key}", b"x" * 1500)
    bucket.remove(f"media/{gone.object_key}")
    moved = await move(Mover(db, bucket.storage(), clock), "database")
    assert (moved.files, moved.damaged) == (1, [bad.sha256, gone.sha256])
    places = await db.read(
        lambda session: session.exec(select(Blob.object_key).order_by(Blob.id)).all()  # type: ignore[arg-type]
    )
    assert places == [None, bad.object_key, gone.object_key]
