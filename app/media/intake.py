"""How media come in: streamed to a spool file, looked at, and only then stored."""

from __future__ import annotations

import base64
import binascii
import hashlib
import sys
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import anyio
from sqlmodel import Session, col, select
from uuid_utils import uuid7

from app.database import Database
from app.errors import MalformedBody, NotFound, PayloadTooLarge, StorageFull, UnsupportedMedia
from app.media.files import storing, unlink
from app.media.probe import probe
from app.media.sandbox import Sandbox
from app.media.sniff import WOULD_WORK
from app.media.store import BlobStore, StoredBlob
from app.media.tables import Blob, Upload
from app.wire import Base64Ref, MediaFacts, MediaRef, UploadRef, UrlRef
from app.wire import Upload as UploadView

MediaKind = Literal["image", "video"]

_WRITE_BYTES = 1 << 20
_BASE64_CHARACTERS = 1 << 16
"""Decoded at a time; a multiple of four."""

_FILENAME_CHARACTERS = 255


class Fetch(Protocol):
    """How the bytes behind a foreign URL are got; the guard against bad addresses is its own."""

    def __call__(
        self, url: str, *, limit_bytes: int, timeout_seconds: float
    ) -> AsyncGenerator[bytes]:
        """The body, piece by piece; raises `FetchRefused` where it may not or cannot be got."""
        ...


@dataclass(frozen=True, slots=True)
class Accepted:
    """An upload as the gateway itself uses it.

    Attributes:
        view: What the client sees.
        blob_id: Where its bytes are.
    """

    view: UploadView
    blob_id: int


class Intake:
    """Takes media in, in whichever way they come.

    Args:
        db: Where uploads are recorded.
        store: Where bytes are kept.
        sandbox: Where files are looked at, and its limits.
        spool: Directory for files while they arrive; see `files.clear_spool`.
        fetch: How URLs are fetched; None refuses them.
        now: The time.
        fetch_seconds: Time to fetch one URL.
        free_bytes: Free bytes of the disk that holds spool and store.
        min_free_bytes: So many are left to what is running, however much is sent.
    """

    def __init__(
        self,
        *,
        db: Database,
        store: BlobStore,
        sandbox: Sandbox,
        spool: Path,
        fetch: Fetch | None,
        now: Callable[[], datetime],
        fetch_seconds: float = 300.0,
        free_bytes: Callable[[], int] = lambda: sys.maxsize,
        min_free_bytes: int = 0,
    ) -> None:
        self._db = db
        self._store = store
        self._sandbox = sandbox
        self._spool = spool
        self._fetch = fetch
        self._now = now
        self._fetch_seconds = fetch_seconds
        self._free_bytes = free_bytes
        self._min_free_bytes = min_free_bytes

    async def accept(
        self,
        ref: MediaRef,
        *,
        owner: str | None,
        expect: MediaKind | None = None,
        any_owner: bool = False,
    ) -> Accepted:
        """The upload that a request refers to, taken in now if it comes with the request.

        Args:
            ref: What the request says.
            owner: Who asks.
            expect: What kind of media the field takes.
            any_owner: Whether the asker may use other people's uploads.

        Raises:
            NotFound: No such upload is visible to the asker.
            UnsupportedMedia: It cannot be used, or is not of the expected kind.
            PayloadTooLarge: It is larger than accepted.
            MalformedBody: It is not base64.
            FetchRefused: The URL may not or cannot be fetched.
            StorageFull: There is no room.
        """
        match ref:
            case UploadRef():
                return await self._again(ref.upload_id, owner, expect, any_owner=any_owner)
            case Base64Ref():
                pieces = decode_base64(ref.base64, max_bytes=self._sandbox.limits.max_bytes)
            case UrlRef():
                if self._fetch is None:
                    raise UnsupportedMedia("This gateway fetches no URLs; upload the file.")
                pieces = self._fetch(
                    ref.url,
                    limit_bytes=self._sandbox.limits.max_bytes,
                    timeout_seconds=self._fetch_seconds,
                )
        async with aclosing(pieces):
            return await self.upload(pieces, owner=owner, expect=expect)

    async def upload(
        self,
        pieces: AsyncIterable[bytes],
        *,
        owner: str | None,
        expect: MediaKind | None = None,
        filename: str | None = None,
    ) -> Accepted:
        """Take a file in as it arrives, in bounded memory.

        The same content from the same owner is the same upload again.

        Raises:
            UnsupportedMedia: It cannot be used, or is not of the expected kind.
            PayloadTooLarge: It is larger than accepted; nothing more was read of it.
            StorageFull: There is no room.
        """
        path = self._spool / str(uuid7())
        try:
            sha256 = await self._spool_to(path, pieces)
            known = await self._db.read(lambda session: _facts_of(session, sha256))
            if known is None:
                facts = await probe(path, sandbox=self._sandbox, expect=expect)
            else:
                facts = known
                _must_be(facts, expect)
            blob = await self._store.put_file(path, sha256=sha256, media_type=facts.media_type)
        finally:
            await unlink(path)
        label = _label(filename)
        return await self._db.write(
            lambda session: self._record(session, blob, facts, owner=owner, filename=label)
        )

    async def get(self, upload_id: str, *, owner: str | None, any_owner: bool = False) -> Accepted:
        """An upload that is there already.

        Raises:
            NotFound: No such upload is visible to the asker.
        """
        return await self._db.read(lambda session: _visible(session, upload_id, owner, any_owner))

    async def _again(
        self, upload_id: str, owner: str | None, expect: MediaKind | None, *, any_owner: bool
    ) -> Accepted:
        def use(session: Session) -> Accepted:
            accepted = _visible(session, upload_id, owner, any_owner)
            _must_be(accepted.view, expect)
            row = session.get_one(Upload, upload_id)
            row.last_used_at = self._now()
            return accepted

        return await self._db.write(use, durable=False)

    async def _spool_to(self, path: Path, pieces: AsyncIterable[bytes]) -> str:
        limit = self._sandbox.limits.max_bytes
        digest = hashlib.sha256()
        size = 0
        buffer = bytearray()
        self._must_have_room(0)
        with storing():
            async with await anyio.open_file(path, "xb") as file:
                async for piece in pieces:
                    size += len(piece)
                    if size > limit:
                        raise PayloadTooLarge(
                            f"The file is larger than the {limit:,} bytes accepted."
                        )
                    digest.update(piece)
                    buffer += piece
                    if len(buffer) >= _WRITE_BYTES:
                        await file.write(buffer)
                        buffer.clear()
                        self._must_have_room(size)
                await file.write(buffer)
        return digest.hexdigest()

    def _must_have_room(self, size: int) -> None:
        """Refuse a file whose `size` bytes, in the spool already, would fill the disk once more."""
        if self._free_bytes() - size < self._min_free_bytes:
            raise StorageFull(
                f"Less than {self._min_free_bytes:,} bytes would be left free on the gateway's "
                "disk. Delete finished jobs or free space, then send the file again.",
                retry_after=60,
            )

    def _record(
        self,
        session: Session,
        blob: StoredBlob,
        facts: MediaFacts,
        *,
        owner: str | None,
        filename: str | None,
    ) -> Accepted:
        now = self._now()
        row = session.exec(
            select(Upload).where(
                col(Upload.blob_id) == blob.id, col(Upload.owner).is_not_distinct_from(owner)
            )
        ).first()
        if row is None:
            row = Upload(
                id=str(uuid7()),
                owner=owner,
                blob_id=blob.id,
                filename=filename,
                created_at=now,
                last_used_at=now,
                **_media_columns(facts),
            )
            session.add(row)
            session.flush()
        row.last_used_at = now
        return _accepted(row, blob.size, blob.sha256)


async def decode_base64(text: str, *, max_bytes: int) -> AsyncGenerator[bytes]:
    """The bytes of base64 text, piece by piece; a data URL's head and line ends are skipped.

    Raises:
        PayloadTooLarge: It would give more than `max_bytes`.
        MalformedBody: It is not base64.
    """
    begin = text.find(",", 0, 256) + 1 if text.startswith("data:") else 0
    rest = ""
    size = 0
    for at in range(begin, len(text), _BASE64_CHARACTERS):
        rest += "".join(text[at : at + _BASE64_CHARACTERS].split())
        whole = len(rest) // 4 * 4
        size += whole // 4 * 3
        if size > max_bytes + 2:
            raise PayloadTooLarge(f"The file is larger than the {max_bytes:,} bytes accepted.")
        yield _decode(rest[:whole])
        rest = rest[whole:]
        await anyio.lowlevel.checkpoint()
    if rest:
        raise MalformedBody("The base64 text is cut off: its length is not a multiple of four.")


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedBody(
            "The text is not base64 of the standard alphabet (RFC 4648, section 4)."
        ) from error


def _must_be(facts: MediaFacts, expect: MediaKind | None) -> None:
    if expect not in {None, facts.kind}:
        article = "an" if facts.kind == "image" else "a"
        raise UnsupportedMedia(f"The file is {article} {facts.kind}. {WOULD_WORK[expect]}")


def _label(filename: str | None) -> str | None:
    """A client's file name as a label: its last part, printable, and never used as a path."""
    if filename is None:
        return None
    last = filename.replace("\\", "/").rpartition("/")[2]
    return "".join(one for one in last if one.isprintable())[:_FILENAME_CHARACTERS] or None


def _media_columns(facts: MediaFacts) -> dict[str, Any]:
    return {name: getattr(facts, name) for name in MediaFacts.model_fields}


def _facts_of(session: Session, sha256: str) -> MediaFacts | None:
    """What probing found when this content came in before."""
    row = session.exec(
        select(Upload)
        .join(Blob, col(Blob.id) == col(Upload.blob_id))
        .where(col(Blob.sha256) == sha256)
        .limit(1)
    ).first()
    return MediaFacts.model_validate(row, from_attributes=True) if row is not None else None


def _visible(session: Session, upload_id: str, owner: str | None, any_owner: bool) -> Accepted:  # noqa: FBT001
    row = session.get(Upload, upload_id)
    if row is None or not (any_owner or row.owner == owner):
        raise NotFound(f"There is no upload {upload_id}; it may have expired.")
    blob = session.get_one(Blob, row.blob_id)
    return _accepted(row, blob.bytes, blob.sha256 or "")


def _accepted(row: Upload, size: int, sha256: str) -> Accepted:
    facts = MediaFacts.model_validate(row, from_attributes=True)
    view = UploadView(
        **facts.model_dump(), id=row.id, bytes=size, sha256=sha256, created_at=row.created_at
    )
    return Accepted(view, row.blob_id)
