"""Moving media from the database to object storage and back, beside a gateway that serves them.

One file at a time: copied, read back and compared by its SHA-256, and only then does its blob name
the new place. So a move can be broken off anywhere and begun again. A reader goes on from the new
place; what was the old one is deleted afterwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, insert, select, update

from app.database import Database
from app.errors import NotFound, StoreUnavailable
from app.media import chunks, loose
from app.media.loose import LooseObjects, Written
from app.media.store import BlobStore
from app.media.tables import Artifact, Blob, Chunk, PreparedMedia, Upload

if TYPE_CHECKING:
    from app.media.objects import ObjectStorage

Place = Literal["database", "objects"]

_AT_ONCE = 100
"""Blobs that are looked up in one transaction."""


@dataclass(slots=True)
class Moved:
    """How far a move is.

    Attributes:
        files: Files that lie in the new place now.
        size: Their bytes.
        damaged: SHA-256 of the files that are not what their hash says. They stay where they are.
    """

    files: int
    size: int
    damaged: list[str]


@dataclass(frozen=True, slots=True)
class _Source:
    """A blob that is to be moved."""

    id: int
    sha256: str
    size: int
    chunk_bytes: int
    object_key: str | None


class Mover:
    """Moves every file that lies in the wrong place."""

    def __init__(self, db: Database, storage: ObjectStorage, now: Callable[[], datetime]) -> None:
        self._db = db
        self._storage = storage
        self._store = BlobStore(db, now=now, objects=storage)
        self._loose = LooseObjects(db, storage, now)
        self._now = now

    async def pending(self, to: Place) -> tuple[int, int]:
        """How many files are to be moved, and their bytes."""
        statement = select(
            sa.func.count(), sa.func.coalesce(sa.func.sum(col(Blob.bytes)), 0)
        ).where(*_elsewhere(to))
        files, size = await self._db.read(lambda session: session.exec(statement).one())
        return files, int(size)

    async def move(self, to: Place, *, on_file: Callable[[Moved], None]) -> Moved:
        """Move all files.

        Args:
            to: Where to.
            on_file: Told after each file.

        Raises:
            StoreUnavailable: Database or storage cannot be reached. What is moved is moved; the
                same call goes on with the rest.
            StorageFull: The database's disk is full; likewise.
        """
        moved = Moved(0, 0, [])
        last = 0
        while sources := await self._db.read(
            lambda session, last=last: _some(session, to, after=last)  # type: ignore[misc]
        ):
            for source in sources:
                last = source.id
                try:
                    there = await (
                        self._to_objects(source)
                        if to == "objects"
                        else self._to_database(source, source.object_key or "")
                    )
                except _Damaged:
                    moved.damaged.append(source.sha256)
                    continue
                except NotFound:
                    if await self._is_there(source):
                        moved.damaged.append(source.sha256)
                    continue  # else deleted meanwhile, as anything may be
                except IntegrityError as error:
                    raise _another_move() from error  # both wrote the same chunk
                if there:
                    moved.files += 1
                    moved.size += source.size
                    on_file(moved)
        return moved

    async def _is_there(self, source: _Source) -> bool:
        """Whether the blob still names what was not found."""
        try:
            return (await self._store.get(source.id)).object_key == source.object_key
        except NotFound:
            return False

    async def _to_objects(self, source: _Source) -> bool:
        media_type = await self._db.read(lambda session: _media_type(session, source.id))
        async with aclosing(self._store.read(source.id)) as pieces:
            written = await self._loose.write(pieces, sha256=source.sha256, media_type=media_type)
        if not await self._arrived(written, source.sha256):
            await self._db.write(lambda session: loose.condemn(session, written.key))
            raise _Damaged
        there = await self._db.write(lambda session: _name(session, source, written.key))
        if there:
            await self._store.drop_moved(source.id)
        return there

    async def _arrived(self, written: Written, sha256: str) -> bool:
        """Read an object back and compare it."""
        digest = hashlib.sha256()
        for low in range(0, written.size, chunks.PART_BYTES):
            high = min(low + chunks.PART_BYTES, written.size)
            digest.update(await self._storage.read(written.key, low, high))
            await self._loose.touch(written.key)
        return written.sha256 == digest.hexdigest() == sha256

    async def _to_database(self, source: _Source, key: str) -> bool:
        await self._store.drop_moved(source.id)  # what a move that was broken off has left
        async with aclosing(self._store.read(source.id)) as pieces:
            count = await self._copy(source, key, pieces)
        digest = hashlib.sha256()
        for idx in range(count):
            chunk = await self._db.read(
                lambda session, idx=idx: chunks.read(session, source.id, idx)  # type: ignore[misc]
            )
            if chunk is not None:
                digest.update(chunk)
        if digest.hexdigest() != source.sha256:
            await self._store.drop_moved(source.id)
            raise _Damaged
        return await self._db.write(
            lambda session: _bring_in(session, source, key, count, self._now())
        )

    async def _copy(self, source: _Source, key: str, pieces: AsyncIterable[bytes]) -> int:
        """Write the chunks of an object, and give how many."""
        idx = 0
        async with aclosing(chunks.in_chunks(pieces, source.chunk_bytes)) as found:
            async for chunk, _ in found:
                if chunk:
                    await self._db.write(
                        lambda session, idx=idx, chunk=chunk: _append(  # type: ignore[misc]
                            session, source, key, idx, chunk, self._now()
                        ),
                        durable=False,
                    )
                    idx += 1
        return idx


class _Damaged(Exception):
    """A file is not what its hash says."""


def _another_move() -> StoreUnavailable:
    return StoreUnavailable("Another move of the media is at work.")


def _elsewhere(to: Place) -> tuple[sa.ColumnElement[bool], ...]:
    is_object = col(Blob.object_key).is_not(None)
    return col(Blob.sha256).is_not(None), is_object if to == "database" else ~is_object


def _some(session: Session, to: Place, *, after: int) -> list[_Source]:
    query = select(Blob).where(*_elsewhere(to), col(Blob.id) > after)
    return [
        _Source(blob.id or 0, blob.sha256 or "", blob.bytes, blob.chunk_bytes, blob.object_key)
        for blob in session.exec(query.order_by(col(Blob.id)).limit(_AT_ONCE)).all()
    ]


def _media_type(session: Session, blob_id: int) -> str | None:
    """What those who refer to the blob call it."""
    for table in (Artifact, Upload, PreparedMedia):
        query = select(table.media_type).where(col(table.blob_id) == blob_id).limit(1)
        if (found := session.exec(query).first()) is not None:
            return found
    return None


def _name(session: Session, source: _Source, key: str) -> bool:
    """Have the blob name the object; False where somebody deleted or moved it meanwhile."""
    named = session.exec(
        update(Blob)
        .where(col(Blob.id) == source.id, col(Blob.object_key).is_(None))
        .values(object_key=key)
    ).rowcount
    if named == 1:
        loose.take(session, key)
        return True
    loose.condemn(session, key)
    return False


def _hold(session: Session, source: _Source, key: str) -> Blob:
    blob = session.exec(select(Blob).where(col(Blob.id) == source.id).with_for_update()).first()
    if blob is None:
        raise NotFound("The file was deleted while it was being moved.")
    if blob.object_key != key:
        raise _another_move()
    return blob


def _append(
    session: Session, source: _Source, key: str, idx: int, data: bytes, now: datetime
) -> None:
    _hold(session, source, key).touched_at = now
    session.flush()
    session.exec(insert(Chunk).values(blob_id=source.id, idx=idx, data=data))


def _bring_in(session: Session, source: _Source, key: str, count: int, now: datetime) -> bool:
    """Have the chunks be the blob's bytes, and the object loose: links to it live for a while."""
    blob = _hold(session, source, key)
    found, size = session.exec(
        select(
            sa.func.count(), sa.func.coalesce(sa.func.sum(sa.func.length(col(Chunk.data))), 0)
        ).where(col(Chunk.blob_id) == source.id)
    ).one()
    if (found, int(size)) != (count, source.size):
        raise _another_move()
    blob.object_key = None
    loose.leave(session, key, now)
    return True
