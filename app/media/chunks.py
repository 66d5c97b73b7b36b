"""Bytes in the database: the transactions on chunks, and how bytes become chunks.

Every function here is portable SQL. `with_for_update` holds the blob's row on a database with
several writers; SQLite, which has one, leaves it out.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Session, col, delete, insert, select, update

from app.errors import StoreUnavailable
from app.media.tables import Blob, Chunk

CHUNK_BYTES = 1 << 20
"""A transaction costs about 0.7 ms whatever its size. Measured on two cores with pages of 4 KiB:
chunks of 64 KiB are read at 100 MB/s, 256 KiB at 350, 512 KiB at 650, 1 MiB at 950, and written at
40, 85, 120 and 150; a kilobyte from anywhere takes 1.3 ms with any. A reader holds two chunks."""

PART_BYTES = 8 << 20
"""The same for object storage: a file of up to so much is one request, a larger one is sent in
parts of it. S3 wants at least 5 MiB and at most 10,000 of them."""

_SWEPT_AT_ONCE = 16
"""Chunks deleted in one transaction: 16 MiB, some ten milliseconds of the one writer."""


async def in_chunks(
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


def too_slow() -> StoreUnavailable:
    """What a writer is told whose unfinished bytes were swept."""
    return StoreUnavailable(
        "The file arrived so slowly that it was given up; send it again.", retry_after=1
    )


# --- a blob that is being written ----------------------------------------------------------------


def begin(session: Session, chunk_bytes: int, now: datetime) -> int:
    """Make a blob without a hash, which nobody may refer to yet, and give its id."""
    blob = Blob(chunk_bytes=chunk_bytes, created_at=now, touched_at=now)
    session.add(blob)
    session.flush()
    if blob.id is None:
        raise RuntimeError("the database gave the new blob no id")
    return blob.id


def append(session: Session, blob_id: int, idx: int, data: bytes, now: datetime) -> None:
    """Add the next chunk of a blob that is being written.

    Raises:
        StoreUnavailable: The sweep took the blob.
    """
    added = session.exec(
        update(Blob)
        .where(col(Blob.id) == blob_id, col(Blob.sha256).is_(None))
        .values(touched_at=now, bytes=col(Blob.bytes) + len(data))
    ).rowcount
    if added != 1:
        raise too_slow()
    session.exec(insert(Chunk).values(blob_id=blob_id, idx=idx, data=data))


def read(session: Session, blob_id: int, idx: int) -> bytes | None:
    """Give one chunk; None where there is none."""
    wanted = select(Chunk.data).where(col(Chunk.blob_id) == blob_id, col(Chunk.idx) == idx)
    return session.exec(wanted).first()


# --- chunks that nobody needs --------------------------------------------------------------------


def without_blob(session: Session) -> list[int]:
    """Give the ids whose chunks are left, while their blob is gone."""
    return list(
        session.exec(
            select(Chunk.blob_id)
            .where(~select(1).where(col(Blob.id) == col(Chunk.blob_id)).exists())
            .distinct()
        ).all()
    )


def drop_some(session: Session, blob_id: int, first: int) -> int | None:
    """Delete an unfinished blob, and one range of its chunks. A finished blob is left alone.

    Returns:
        The first chunk that is left; None where there is nothing more to do.
    """
    session.exec(delete(Blob).where(col(Blob.id) == blob_id, col(Blob.sha256).is_(None)))
    if session.get(Blob, blob_id) is not None:
        return None
    return _delete_from(session, blob_id, first)


def moved_away(session: Session, cutoff: datetime) -> list[int]:
    """Give the blobs whose bytes are objects and of which chunks are left, unused since `cutoff`.

    A move that was killed leaves such chunks, on the way out or on the way in.
    """
    return [
        blob_id
        for blob_id in session.exec(
            select(Blob.id).where(
                col(Blob.object_key).is_not(None),
                col(Blob.touched_at) < cutoff,
                select(1).where(col(Chunk.blob_id) == col(Blob.id)).exists(),
            )
        ).all()
        if blob_id is not None
    ]


def drop_moved(session: Session, blob_id: int, first: int) -> int | None:
    """Delete one range of the chunks of a blob whose bytes are an object.

    Returns:
        The first chunk that is left; None where there is nothing more to do.
    """
    blob = session.exec(select(Blob).where(col(Blob.id) == blob_id).with_for_update()).first()
    if blob is None or blob.object_key is None:
        return None
    return _delete_from(session, blob_id, first)


def _delete_from(session: Session, blob_id: int, first: int) -> int | None:
    chunk = col(Chunk.blob_id) == blob_id, col(Chunk.idx) >= first
    session.exec(delete(Chunk).where(*chunk, col(Chunk.idx) < first + _SWEPT_AT_ONCE))
    return session.exec(select(sa.func.min(col(Chunk.idx))).where(*chunk)).one()
