"""Bytes in the database: any size written, and any range read, in bounded memory.

A blob is written in chunks, each in a small transaction of its own, and becomes visible by the
last one, which is durable and gives it its hash. A blob that no row refers to is garbage once it
has not been touched for a grace, which must be longer than anybody takes from storing bytes to
referring to them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import anyio
from sqlmodel import Session, col, delete, insert, select, update
from uuid_utils import uuid7

from app.database import Database
from app.errors import NotFound, StorageFull, StoreUnavailable
from app.media.files import read_file, storing, unlink
from app.media.tables import Artifact, Blob, Chunk, PreparedMedia, Upload

CHUNK_BYTES = 1 << 20
"""A transaction costs about 0.7 ms whatever its size. Measured on two cores with pages of 4 KiB:
chunks of 64 KiB are read at 100 MB/s, 256 KiB at 350, 512 KiB at 650, 1 MiB at 950, and written at
40, 85, 120 and 150; a kilobyte from anywhere takes 1.3 ms with any. A reader holds two chunks."""

_SWEPT_AT_ONCE = 16
"""Chunks deleted in one transaction: 16 MiB, some ten milliseconds of the one writer."""


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """Bytes that are in the store.

    Attributes:
        id: What rows refer to.
        sha256: Lowercase hex digest of the content.
        size: Length in bytes.
        chunk_bytes: Length of every chunk but the last.
    """

    id: int
    sha256: str
    size: int
    chunk_bytes: int


class BlobStore:
    """The bytes of uploads and artifacts, addressed by SHA-256, each content stored once."""

    def __init__(
        self, db: Database, *, now: Callable[[], datetime], chunk_bytes: int = CHUNK_BYTES
    ) -> None:
        self._db = db
        self._now = now
        self._chunk_bytes = chunk_bytes

    async def put(self, pieces: AsyncIterable[bytes]) -> StoredBlob:
        """Store what `pieces` gives, in bounded memory: at most two chunks of it.

        The blob is touched now; refer to it before the sweep's grace is over.

        Raises:
            StorageFull: The disk is full; what was written is given back.
            StoreUnavailable: The bytes came so slowly that the sweep took the unfinished blob.
        """
        async with aclosing(_in_chunks(pieces, self._chunk_bytes)) as chunks:
            first, is_last = await anext(chunks)
            if is_last:
                return await self._db.write(lambda session: self._at_once(session, first))
            return await self._one_by_one(first, chunks)

    async def put_file(self, path: Path, *, sha256: str | None = None) -> StoredBlob:
        """Store a file's content. With its hash given, what is there already is not written."""
        found = await self.find(sha256) if sha256 is not None else None
        if found is not None:
            return found
        async with aclosing(read_file(path, self._chunk_bytes)) as pieces:
            return await self.put(pieces)

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

    async def read(
        self, blob_id: int, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[bytes]:
        """The bytes from `start` up to but not including `stop`, piece by piece.

        Each piece is its own short transaction, so that a slow reader holds nothing. The next
        piece is fetched while the caller is busy with the last one.

        Raises:
            NotFound: The blob is gone, perhaps since the reading began.
        """
        blob = await self.get(blob_id)
        stop = blob.size if stop is None else min(stop, blob.size)
        start = max(start, 0)
        if start >= stop:
            return
        first, last = start // blob.chunk_bytes, (stop - 1) // blob.chunk_bytes
        ahead = asyncio.ensure_future(self._chunk(blob_id, first))
        try:
            for idx in range(first, last + 1):
                data = await ahead
                if idx < last:
                    ahead = asyncio.ensure_future(self._chunk(blob_id, idx + 1))
                offset = idx * blob.chunk_bytes
                low, high = max(start - offset, 0), min(stop - offset, len(data))
                yield data[low:high]
        finally:
            if not ahead.done():
                ahead.cancel()

    @asynccontextmanager
    async def materialize(
        self, blob_id: int, directory: Path, *, suffix: str = ""
    ) -> AsyncGenerator[Path]:
        """A copy of the blob as a file, for a child process; it goes when the context ends.

        Raises:
            NotFound: The blob is gone.
            StorageFull: The directory's disk is full.
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

    async def sweep(self, *, grace: timedelta) -> int:
        """Delete the blobs that no row refers to and nobody touched for `grace`.

        Unfinished writes that stand still for as long are swept likewise, and chunks that a
        killed gateway left without a blob.

        Returns:
            Bytes given back.
        """
        cutoff = self._now() - grace
        freed = await self._db.write(
            lambda session: _forget_unreferenced(session, cutoff), durable=False
        )
        for blob_id in await self._db.read(_without_blob):
            await self._drop(blob_id)
        return freed

    # --- the transactions ----------------------------------------------------------------------

    def _at_once(self, session: Session, data: bytes) -> StoredBlob:
        """Store what fits into one chunk."""
        sha256 = hashlib.sha256(data).hexdigest()
        now = self._now()
        there = _touch(session, sha256, now)
        if there is not None:
            return there
        blob_id = self._begin(session)
        if data:
            _append(session, blob_id, 0, data, now)
        return _finish(session, blob_id, sha256, len(data), now)

    async def _one_by_one(
        self, first: bytes, rest: AsyncIterable[tuple[bytes, bool]]
    ) -> StoredBlob:
        """Store each chunk in a transaction of its own."""
        blob_id = await self._db.write(self._begin, durable=False)
        try:
            await self._add(blob_id, 0, first)
            digest, size, idx = hashlib.sha256(first), len(first), 0
            async for chunk, _ in rest:
                idx += 1
                await self._add(blob_id, idx, chunk)
                digest.update(chunk)
                size += len(chunk)
            sha256, now = digest.hexdigest(), self._now()
            kept = await self._db.write(
                lambda session: _finish(session, blob_id, sha256, size, now)
            )
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
            lambda session: _append(session, blob_id, idx, data, now), durable=False
        )

    def _begin(self, session: Session) -> int:
        now = self._now()
        blob = Blob(chunk_bytes=self._chunk_bytes, created_at=now, touched_at=now)
        session.add(blob)
        session.flush()
        if blob.id is None:
            raise RuntimeError("the database gave the new blob no id")
        return blob.id

    async def _chunk(self, blob_id: int, idx: int) -> bytes:
        wanted = select(Chunk.data).where(col(Chunk.blob_id) == blob_id, col(Chunk.idx) == idx)
        data = await self._db.read(lambda session: session.exec(wanted).first())
        if data is None:
            raise NotFound("The file was deleted while it was being read.")
        return data

    async def _drop(self, blob_id: int) -> None:
        """Delete a blob's row, if it is still there, and then its chunks bit by bit."""
        first = 0
        while await self._db.write(
            lambda session, first=first: _delete_some(session, blob_id, first),  # type: ignore[misc]
            durable=False,
        ):
            first += _SWEPT_AT_ONCE


async def _in_chunks(
    pieces: AsyncIterable[bytes], chunk_bytes: int
) -> AsyncGenerator[tuple[bytes, bool]]:
    """The bytes in chunks of one size, each with whether it is the last; at least one."""
    buffer = bytearray()
    async for piece in pieces:
        rest = memoryview(piece)
        while len(buffer) + len(rest) > chunk_bytes:
            taken = chunk_bytes - len(buffer)
            buffer += rest[:taken]
            rest = rest[taken:]
            yield bytes(buffer), False
            buffer.clear()
        buffer += rest
    yield bytes(buffer), True


def _append(session: Session, blob_id: int, idx: int, data: bytes, now: datetime) -> None:
    _only_one(
        session.exec(
            update(Blob)
            .where(col(Blob.id) == blob_id, col(Blob.sha256).is_(None))
            .values(touched_at=now, bytes=col(Blob.bytes) + len(data))
        ).rowcount
    )
    session.exec(insert(Chunk).values(blob_id=blob_id, idx=idx, data=data))


def _only_one(rows: int) -> None:
    if rows != 1:
        raise StoreUnavailable(
            "The file arrived so slowly that it was given up; send it again.", retry_after=1
        )


def _stored(blob: Blob) -> StoredBlob:
    if blob.id is None or blob.sha256 is None:
        raise NotFound("The file is not completely stored.")
    return StoredBlob(blob.id, blob.sha256, blob.bytes, blob.chunk_bytes)


def _finished(session: Session, blob_id: int) -> StoredBlob:
    blob = session.get(Blob, blob_id)
    if blob is None:
        raise NotFound("The file is no longer stored.")
    return _stored(blob)


def _touch(session: Session, sha256: str, now: datetime) -> StoredBlob | None:
    # Written before it is looked at, so that a sweep beside us takes it before or not at all.
    session.exec(update(Blob).where(col(Blob.sha256) == sha256).values(touched_at=now))
    blob = session.exec(select(Blob).where(col(Blob.sha256) == sha256)).first()
    return None if blob is None else _stored(blob)


def _finish(session: Session, blob_id: int, sha256: str, size: int, now: datetime) -> StoredBlob:
    """Make the blob visible, or give the one that had this content first."""
    there = _touch(session, sha256, now)
    if there is not None:
        return there
    _only_one(
        session.exec(
            update(Blob)
            .where(col(Blob.id) == blob_id, col(Blob.sha256).is_(None))
            .values(sha256=sha256, bytes=size, touched_at=now)
        ).rowcount
    )
    return _finished(session, blob_id)


def _forget_unreferenced(session: Session, cutoff: datetime) -> int:
    """Delete the rows only; the chunks are then found as those without a blob."""
    blob_id = col(Blob.id)
    untouched = col(Blob.touched_at) < cutoff
    gone = session.exec(
        select(Blob.id, Blob.bytes).where(
            untouched,
            *(
                ~select(1).where(column == blob_id).exists()
                for column in (
                    col(Upload.blob_id),
                    col(Artifact.blob_id),
                    col(PreparedMedia.blob_id),
                )
            ),
        )
    ).all()
    return sum(
        size * session.exec(delete(Blob).where(blob_id == id_, untouched)).rowcount
        for id_, size in gone
    )


def _without_blob(session: Session) -> list[int]:
    return list(
        session.exec(
            select(Chunk.blob_id)
            .where(~select(1).where(col(Blob.id) == col(Chunk.blob_id)).exists())
            .distinct()
        ).all()
    )


def _delete_some(session: Session, blob_id: int, first: int) -> bool:
    """Delete one range of chunks; whether there are more. A finished blob is left alone."""
    session.exec(delete(Blob).where(col(Blob.id) == blob_id, col(Blob.sha256).is_(None)))
    if session.get(Blob, blob_id) is not None:
        return False
    chunk = col(Chunk.blob_id) == blob_id, col(Chunk.idx) >= first
    session.exec(delete(Chunk).where(*chunk, col(Chunk.idx) < first + _SWEPT_AT_ONCE))
    return session.exec(select(Chunk.idx).where(*chunk).limit(1)).first() is not None
