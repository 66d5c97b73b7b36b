"""Objects that no blob names: being written, or to be deleted. So none is ever forgotten.

An object's key gets a row here before its first byte is sent, and loses it in the transaction that
names the key in a blob. Where a blob loses its object, the same transaction gives the key its row
here. Keys are never used again. Objects are deleted by the sweep, and nowhere else.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import structlog
from sqlmodel import Session, col, delete, select, update
from uuid_utils import uuid7

from app.database import Database
from app.errors import StoreUnavailable
from app.media.chunks import PART_BYTES, in_chunks, too_slow
from app.media.tables import LooseObject

if TYPE_CHECKING:
    from app.media.objects import ObjectStorage

log = structlog.get_logger(__name__)

_DELETED_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Written:
    """An object that is completely written, and still loose.

    Attributes:
        key: Its key.
        sha256: Lowercase hex digest of what was sent.
        size: Length in bytes.
    """

    key: str
    sha256: str
    size: int


class LooseObjects:
    """Writes objects, and deletes those that nobody needs."""

    def __init__(self, db: Database, storage: ObjectStorage, now: Callable[[], datetime]) -> None:
        self._db = db
        self._storage = storage
        self._now = now

    async def write(
        self, pieces: AsyncIterable[bytes], *, sha256: str | None, media_type: str | None
    ) -> Written:
        """Send bytes, in bounded memory, and see that all have arrived.

        What is broken off stays a loose object, and the sweep deletes it after its grace: a request
        on its way may still be carried out after it was given up here.

        Args:
            pieces: The bytes.
            sha256: Their hash, where it is known before: it is then a part of the key.
            media_type: What the storage shall call them.

        Raises:
            StoreUnavailable: The storage cannot be reached, or the sweep took the object.
        """
        key = f"{sha256 or 'stream'}/{uuid7()}"
        await self._db.write(lambda session: _announce(session, key, self._now()))
        digest = hashlib.sha256()
        size = 0

        async def counted(
            first: bytes, rest: AsyncIterable[tuple[bytes, bool]]
        ) -> AsyncGenerator[bytes]:
            nonlocal size
            yield count(first)
            async for part, _ in rest:
                await self.touch(key)
                yield count(part)

        def count(part: bytes) -> bytes:
            nonlocal size
            digest.update(part)
            size += len(part)
            return part

        async with aclosing(in_chunks(pieces, PART_BYTES)) as parts:
            first, is_last = await anext(parts)
            if is_last:
                await self._storage.put(key, count(first), media_type=media_type)
            else:
                await self._storage.put_parts(key, counted(first, parts), media_type=media_type)
        if await self._storage.size(key) != size:
            raise StoreUnavailable("The object storage did not keep all bytes.", retry_after=10)
        return Written(key, digest.hexdigest(), size)

    async def touch(self, key: str) -> None:
        """Keep the sweep from a loose object for another grace.

        Raises:
            StoreUnavailable: The sweep has taken it.
        """
        statement = (
            update(LooseObject)
            .where(col(LooseObject.key) == key, col(LooseObject.touched_at).is_not(None))
            .values(touched_at=self._now())
        )
        touched = await self._db.write(
            lambda session: session.exec(statement).rowcount, durable=False
        )
        if touched != 1:
            raise too_slow()

    async def sweep(self, cutoff: datetime) -> None:
        """Delete the objects that nobody needs; what cannot be deleted now, the next time.

        The decision is durable before the object goes: a power cut must not bring back a row that
        names it.
        """
        try:
            while keys := await self._db.write(lambda session: _doomed(session, cutoff)):
                await self._storage.delete(keys)
                await self._db.write(lambda session: _forget(session, keys), durable=False)
        except StoreUnavailable as error:
            log.warning("objects are not deleted yet", reason=error.detail)


# --- the transactions ----------------------------------------------------------------------------


def _announce(session: Session, key: str, now: datetime) -> None:
    session.add(LooseObject(key=key, touched_at=now))


def take(session: Session, key: str) -> None:
    """Take a loose object for a blob, in the transaction that names it there.

    Raises:
        StoreUnavailable: The sweep has taken it.
    """
    taken = session.exec(
        delete(LooseObject).where(
            col(LooseObject.key) == key, col(LooseObject.touched_at).is_not(None)
        )
    ).rowcount
    if taken != 1:
        raise too_slow()


def leave(session: Session, key: str, touched_at: datetime) -> None:
    """Make an object loose, in the transaction in which its blob lets it go."""
    session.add(LooseObject(key=key, touched_at=touched_at))


def condemn(session: Session, key: str) -> None:
    """Have the next sweep delete a loose object that was completely written."""
    session.exec(update(LooseObject).where(col(LooseObject.key) == key).values(touched_at=None))


def _doomed(session: Session, cutoff: datetime) -> Sequence[str]:
    session.exec(
        update(LooseObject).where(col(LooseObject.touched_at) < cutoff).values(touched_at=None)
    )
    return session.exec(
        select(LooseObject.key).where(col(LooseObject.touched_at).is_(None)).limit(_DELETED_AT_ONCE)
    ).all()


def _forget(session: Session, keys: Sequence[str]) -> None:
    session.exec(delete(LooseObject).where(col(LooseObject.key).in_(keys)))
