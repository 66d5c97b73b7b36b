"""Bytes in the store: any size written, and any range read, in bounded memory.

The bytes of a blob lie in the database in chunks, or are an object in object storage. In the
database each chunk is written in a small transaction of its own, and the blob becomes visible by
the last one, which is durable and gives it its hash. An object is written first, then the blob
that names it. A blob that no row refers to is garbage once it has not been touched for a grace,
which must be longer than anybody takes from storing bytes to referring to them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, delete, select, update
from uuid_utils import uuid7

from app.database import Database
from app.errors import NotFound, StorageFull, StoreUnavailable
from app.media import chunks, loose
from app.media.chunks import CHUNK_BYTES, too_slow
from app.media.files import read_file, storing, unlink
from app.media.loose import LooseObjects
from app.media.tables import Artifact, Blob, PreparedMedia, Upload

if TYPE_CHECKING:
    from app.media.objects import ObjectStorage

_PIECE_BYTES = 2 << 20
"""Read from object storage in one request; a reader holds two. Each request is short, so that a
slow reader keeps no connection, and a moved file is read on from where it is now."""


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """Bytes that are in the store.

    Attributes:
        id: What rows refer to.
        sha256: Lowercase hex digest of the content.
        size: Length in bytes.
        chunk_bytes: Length of every chunk but the last, where they lie in the database.
        object_key: The object that they are; None where they lie in the database.
    """

    id: int
    sha256: str
    size: int
    chunk_bytes: int
    object_key: str | None = None


class BlobStore:
    """The bytes of uploads and artifacts, addressed by SHA-256, each content stored once."""

    def __init__(
        self,
        db: Database,
        *,
        now: Callable[[], datetime],
        objects: ObjectStorage | None = None,
        new_in_objects: bool = True,
        chunk_bytes: int = CHUNK_BYTES,
        piece_bytes: int = _PIECE_BYTES,
    ) -> None:
        """Make the store.

        Args:
            db: Where the blobs are.
            now: The time.
            objects: Object storage, where there is one.
            new_in_objects: Whether it gets what is new; else it is only read.
            chunk_bytes: Size of chunks in the database.
            piece_bytes: How much is read from object storage at once.
        """
        self._db = db
        self._now = now
        self._objects = objects
        self._loose = None if objects is None else LooseObjects(db, objects, now)
        self._new_in_objects = new_in_objects
        self._chunk_bytes = chunk_bytes
        self._piece_bytes = piece_bytes

    async def put(
        self,
        pieces: AsyncIterable[bytes],
        *,
        sha256: str | None = None,
        media_type: str | None = None,
    ) -> StoredBlob:
        """Store what `pieces` gives, in bounded memory: two chunks, or three parts of an object.

        The blob is touched now; refer to it before the sweep's grace is over.

        Args:
            pieces: The bytes.
            sha256: Their hash where it is known: a part of the object's key.
            media_type: What object storage shall call them.

        Raises:
            StorageFull: The disk is full; what was written is given back.
            StoreUnavailable: The bytes came so slowly that the sweep took the unfinished blob, or
                the object storage cannot be reached.
        """
        if self._loose is not None and self._new_in_objects:
            return await self._as_object(self._loose, pieces, sha256, media_type)
        async with aclosing(chunks.in_chunks(pieces, self._chunk_bytes)) as found:
            first, is_last = await anext(found)
            if is_last:
                return await self._settle(lambda session: self._at_once(session, first))
            return await self._one_by_one(first, found)

    async def put_file(
        self, path: Path, *, sha256: str | None = None, media_type: str | None = None
    ) -> StoredBlob:
        """Store a file's content. What is known to be there already is not written.

        In the database that is known where the hash is given; before a file is sent to object
        storage, its hash is taken.
        """
        if sha256 is None and self._loose is not None and self._new_in_objects:
            sha256 = await _hash_of(path)
        found = await self.find(sha256) if sha256 is not None else None
        if found is not None:
            return found
        async with aclosing(read_file(path, CHUNK_BYTES)) as pieces:
            return await self.put(pieces, sha256=sha256, media_type=media_type)

    async def find(self, sha256: str) -> StoredBlob | None:
        """The blob with this content, touched so that no sweep takes it for a grace."""
        now = self._now()
        return await self._db.write(lambda session: _touch(session, sha256, now), durable=False)

    async def get(self, blob_id: int) -> StoredBlob:
        """What is known of a finished blob.

        Raises:
            NotFound: There is no such blob, or it is not completely written.
        """
        return await self._db.read(lambda session: _finished(session, blob_id))

    async def link(self, blob_id: int) -> str | None:
        """A URL at which the object storage gives the bytes, for a quarter of an hour.

        Returns:
            None for bytes that lie in the database.

        Raises:
            NotFound: There is no such blob.
            StoreUnavailable: No URL can be made now.
        """
        key = (await self.get(blob_id)).object_key
        return None if key is None else await self._storage().link(key)

    async def read(
        self, blob_id: int, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[bytes]:
        """The bytes from `start` up to but not including `stop`, piece by piece.

        Each piece is its own short transaction or request, so that a slow reader holds nothing. The
        next piece is fetched while the caller is busy with the last one. Bytes that are moved
        meanwhile are read on from where they are then.

        Raises:
            NotFound: The blob is gone, perhaps since the reading began.
            StoreUnavailable: The object storage cannot be reached.
        """
        blob = await self.get(blob_id)
        at, stop = max(start, 0), blob.size if stop is None else min(stop, blob.size)
        while at < stop:
            try:
                async with aclosing(self._pieces(blob, at, stop)) as pieces:
                    async for piece in pieces:
                        at += len(piece)
                        yield piece
            except NotFound:
                with suppress(NotFound):
                    moved = await self.get(blob_id)
                    if moved.object_key != blob.object_key:
                        blob = moved
                        continue
                raise

    async def _pieces(self, blob: StoredBlob, start: int, stop: int) -> AsyncGenerator[bytes]:
        each = blob.chunk_bytes if blob.object_key is None else self._piece_bytes
        edges = [start, *range((start // each + 1) * each, stop, each), stop]
        ahead = asyncio.ensure_future(self._piece(blob, *edges[:2]))
        try:
            for low, high in zip(edges[1:], [*edges[2:], stop], strict=True):
                data = await ahead
                if low < high:
                    ahead = asyncio.ensure_future(self._piece(blob, low, high))
                yield data
        finally:
            if ahead.cancel() is False and not ahead.cancelled():
                ahead.exception()  # looked at: nobody waits for it any more

    async def _piece(self, blob: StoredBlob, start: int, stop: int) -> bytes:
        """Bytes that lie in one chunk."""
        if blob.object_key is not None:
            return await self._storage().read(blob.object_key, start, stop)
        idx, offset = divmod(start, blob.chunk_bytes)
        data = await self._db.read(lambda session: chunks.read(session, blob.id, idx))
        if data is None:
            raise NotFound("The file was deleted while it was being read.")
        return data[offset : offset + stop - start]

    @asynccontextmanager
    async def materialize(
        self, blob_id: int, directory: Path, *, suffix: str = ""
    ) -> AsyncGenerator[Path]:
        """A copy of the blob as a file, for a child process; it goes when the context ends.

        Raises:
            NotFound: The blob is gone.
            StorageFull: The directory's disk is full.
            StoreUnavailable: The object storage cannot be reached.
        """
        path = directory / f"{uuid7()}{suffix}"
        try:
            with storing():
                async with (
                    await anyio.open_file(path, "xb") as file,
                    aclosing(self.read(blob_id)) as pieces,
                ):
                    async for piece in pieces:
                        await file.write(piece)
            yield path
        finally:
            await unlink(path)

    @property
    def uses_objects(self) -> bool:
        """Whether there is object storage."""
        return self._objects is not None

    async def check(self) -> None:
        """See that the object storage, where there is one, takes and gives.

        Raises:
            StoreUnavailable: It does not.
        """
        if self._objects is not None:
            await self._objects.check()

    async def sweep(self, *, grace: timedelta) -> int:
        """Delete the blobs that no row refers to and nobody touched for `grace`.

        Unfinished writes that stand still for as long are swept likewise, and the chunks and
        objects that a killed gateway left without a blob.

        Returns:
            Bytes given back.
        """
        cutoff = self._now() - grace
        freed = await self._db.write(
            lambda session: _forget_unreferenced(session, cutoff), durable=False
        )
        for blob_id in await self._db.read(chunks.without_blob):
            await self._drop(blob_id)
        for blob_id in await self._db.read(lambda session: chunks.moved_away(session, cutoff)):
            await self.drop_moved(blob_id)
        if self._loose is not None:
            await self._loose.sweep(cutoff)
        return freed

    async def drop_moved(self, blob_id: int) -> None:
        """Delete the chunks of a blob whose bytes are an object, bit by bit."""
        first: int | None = 0
        while first is not None:
            first = await self._db.write(
                lambda session, first=first: chunks.drop_moved(session, blob_id, first),  # type: ignore[misc]
                durable=False,
            )

    # --- writing -------------------------------------------------------------------------------

    async def _settle(self, fn: Callable[[Session], StoredBlob]) -> StoredBlob:
        """Write a blob's hash. Who stores the same content at the same moment may be first."""
        try:
            return await self._db.write(fn)
        except IntegrityError:
            return await self._db.write(fn)

    async def _as_object(
        self,
        objects: LooseObjects,
        pieces: AsyncIterable[bytes],
        sha256: str | None,
        media_type: str | None,
    ) -> StoredBlob:
        """Store the bytes as an object, then the blob that names it."""
        written = await objects.write(pieces, sha256=sha256, media_type=media_type)

        def name(session: Session) -> StoredBlob:
            now = self._now()
            there = _touch(session, written.sha256, now)
            if there is not None:
                loose.condemn(session, written.key)
                return there
            loose.take(session, written.key)
            blob = Blob(
                sha256=written.sha256,
                bytes=written.size,
                chunk_bytes=self._chunk_bytes,
                object_key=written.key,
                created_at=now,
                touched_at=now,
            )
            session.add(blob)
            session.flush()
            return _stored(blob)

        return await self._settle(name)

    def _at_once(self, session: Session, data: bytes) -> StoredBlob:
        """Store what fits into one chunk."""
        sha256 = hashlib.sha256(data).hexdigest()
        now = self._now()
        there = _touch(session, sha256, now)
        if there is not None:
            return there
        blob_id = chunks.begin(session, self._chunk_bytes, now)
        if data:
            chunks.append(session, blob_id, 0, data, now)
        return _finish(session, blob_id, sha256, len(data), now)

    async def _one_by_one(
        self, first: bytes, rest: AsyncIterable[tuple[bytes, bool]]
    ) -> StoredBlob:
        """Store each chunk in a transaction of its own."""
        blob_id = await self._db.write(
            lambda session: chunks.begin(session, self._chunk_bytes, self._now()), durable=False
        )
        try:
            await self._add(blob_id, 0, first)
            digest, size, idx = hashlib.sha256(first), len(first), 0
            async for chunk, _ in rest:
                idx += 1
                await self._add(blob_id, idx, chunk)
                digest.update(chunk)
                size += len(chunk)
            sha256, now = digest.hexdigest(), self._now()
            kept = await self._settle(lambda session: _finish(session, blob_id, sha256, size, now))
        except BaseException:
            with anyio.CancelScope(shield=True), suppress(StorageFull, StoreUnavailable):
                # Where this fails too, the sweep finds it: an unfinished blob has no hash.
                await self._drop(blob_id)
            raise
        if kept.id != blob_id:
            await self._drop(blob_id)
        return kept

    async def _add(self, blob_id: int, idx: int, data: bytes) -> None:
        now = self._now()
        await self._db.write(
            lambda session: chunks.append(session, blob_id, idx, data, now), durable=False
        )

    async def _drop(self, blob_id: int) -> None:
        """Delete a blob's row, if it is still there, and then its chunks bit by bit."""
        first: int | None = 0
        while first is not None:
            first = await self._db.write(
                lambda session, first=first: chunks.drop_some(session, blob_id, first),  # type: ignore[misc]
                durable=False,
            )

    def _storage(self) -> ObjectStorage:
        if self._objects is None:
            raise StoreUnavailable(
                "The file lies in object storage, and GATEWAY_MEDIA_URL does not say where.",
                retry_after=60,
            )
        return self._objects


async def _hash_of(path: Path) -> str:
    digest = hashlib.sha256()
    async with aclosing(read_file(path, CHUNK_BYTES)) as pieces:
        async for piece in pieces:
            digest.update(piece)
    return digest.hexdigest()


def _stored(blob: Blob) -> StoredBlob:
    if blob.id is None or blob.sha256 is None:
        raise NotFound("The file is not completely stored.")
    return StoredBlob(blob.id, blob.sha256, blob.bytes, blob.chunk_bytes, blob.object_key)


def _finished(session: Session, blob_id: int) -> StoredBlob:
    blob = session.get(Blob, blob_id)
    if blob is None:
        raise NotFound("The file is no longer stored.")
    return _stored(blob)


def _touch(session: Session, sha256: str, now: datetime) -> StoredBlob | None:
    blob = session.exec(select(Blob).where(col(Blob.sha256) == sha256).with_for_update()).first()
    if blob is None:
        return None
    blob.touched_at = now
    return _stored(blob)


def _finish(session: Session, blob_id: int, sha256: str, size: int, now: datetime) -> StoredBlob:
    """Make the blob visible, or give the one that had this content first."""
    there = _touch(session, sha256, now)
    if there is not None:
        return there
    finished = session.exec(
        update(Blob)
        .where(col(Blob.id) == blob_id, col(Blob.sha256).is_(None))
        .values(sha256=sha256, bytes=size, touched_at=now)
    ).rowcount
    if finished != 1:
        raise too_slow()
    return _finished(session, blob_id)


def _forget_unreferenced(session: Session, cutoff: datetime) -> int:
    """Delete the rows only; chunks are then found as those without a blob, objects as loose."""
    blob_id = col(Blob.id)
    unneeded = (
        col(Blob.touched_at) < cutoff,
        *(
            ~select(1).where(column == blob_id).exists()
            for column in (
                col(Upload.blob_id),
                col(Artifact.blob_id),
                col(PreparedMedia.blob_id),
            )
        ),
    )
    found = session.exec(
        select(Blob.id, Blob.bytes, Blob.object_key, Blob.touched_at).where(*unneeded)
    ).all()
    freed = 0
    for id_, size, key, touched_at in found:
        # Asked again: on a server somebody may have found the blob by its content meanwhile.
        if session.exec(delete(Blob).where(blob_id == id_, *unneeded)).rowcount != 1:
            continue
        freed += size
        if key is not None:
            loose.leave(session, key, touched_at)
    return freed
