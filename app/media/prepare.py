"""What the engine gets from what the user sent, made once per content and plan."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, delete
from uuid_utils import uuid7

from app.database import Database
from app.media.files import unlink
from app.media.sandbox import Sandbox
from app.media.store import BlobStore, StoredBlob
from app.media.tables import PreparedMedia
from app.wire import MediaFacts

_RECIPE = "1"
"""Part of every plan's key: to be raised whenever preparing gives other bytes than before."""


@dataclass(frozen=True, slots=True)
class VideoPlan:
    """A range of a video at a constant rate.

    Attributes:
        fps: Frames per second of what is made.
        frames: Most frames to make, such as 81; None for all that there are. The caller decides
            what number the model needs; a shorter video gives fewer.
        start_seconds: Where in the video it begins.
        keep_audio: Whether the sound of that range is kept.
        max_side: Longer sides are scaled down to this; None keeps the size.
    """

    fps: float
    frames: int | None = None
    start_seconds: float = 0.0
    keep_audio: bool = True
    max_side: int | None = None

    @property
    def key(self) -> str:
        """What two plans have in common if they give the same file."""
        return (
            f"video/{_RECIPE} start={self.start_seconds:.6f} fps={self.fps:.6f} "
            f"frames={self.frames} audio={self.keep_audio} side={self.max_side}"
        )


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """An upright RGB picture.

    Attributes:
        max_side: Longer sides are scaled down to this; None keeps the size.
    """

    max_side: int | None = None

    @property
    def key(self) -> str:
        """What two plans have in common if they give the same file."""
        return f"image/{_RECIPE} side={self.max_side}"


Plan: TypeAlias = VideoPlan | ImagePlan

_SUFFIXES = {"video/mp4": ".mp4", "image/png": ".png", "image/jpeg": ".jpg"}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A file made for the engine.

    Attributes:
        blob: Its bytes in the store.
        facts: What it is.
        filename: A name by content, so that the same file is uploaded to the engine once.
    """

    blob: StoredBlob
    facts: MediaFacts
    filename: str


class Preparer:
    """Makes what the engine gets, and remembers it.

    Args:
        db: Where the memory of it is.
        store: Where sources are read from and results kept.
        sandbox: Where files are decoded.
        spool: Directory for files while they are worked on.
        now: The time.
    """

    def __init__(
        self,
        *,
        db: Database,
        store: BlobStore,
        sandbox: Sandbox,
        spool: Path,
        now: Callable[[], datetime],
    ) -> None:
        self._db = db
        self._store = store
        self._sandbox = sandbox
        self._spool = spool
        self._now = now

    async def prepare(self, blob_id: int, plan: Plan) -> Prepared:
        """The prepared file for a source and a plan; from the store where it was made before.

        Raises:
            UnsupportedMedia: The source cannot be used, or has no frame where the plan begins.
            StorageFull: No room for the result.
            NotFound: The source is no longer stored.
        """
        known = await self._known(blob_id, plan)
        if known is not None:
            return known
        target = self._spool / str(uuid7())
        try:
            async with self._store.materialize(blob_id, self._spool) as source:
                facts = await self._make(source, target, plan)
            blob = await self._store.put_file(target, media_type=facts.media_type)
        finally:
            await unlink(target)
        with suppress(IntegrityError):  # made by another job meanwhile, or the source was swept
            await self._db.write(
                lambda session: self._remember(session, blob_id, plan, blob, facts)
            )
        return _prepared(blob, facts)

    async def sweep(self, *, ttl: timedelta) -> int:
        """Forget what was not asked for within `ttl`; gives how many. The bytes go by the store."""
        cutoff = self._now() - ttl
        statement = delete(PreparedMedia).where(col(PreparedMedia.last_used_at) < cutoff)
        return await self._db.write(lambda session: session.exec(statement).rowcount, durable=False)

    async def _make(self, source: Path, target: Path, plan: Plan) -> MediaFacts:
        limits = self._sandbox.limits
        task = "prepare_video" if isinstance(plan, VideoPlan) else "prepare_image"
        args: dict[str, Any] = asdict(plan)
        facts = await self._sandbox.run(
            task,
            seconds=limits.prepare_seconds,
            path=str(source),
            target=str(target),
            limits=asdict(limits),
            **args,
        )
        return MediaFacts.model_validate(facts)

    async def _known(self, blob_id: int, plan: Plan) -> Prepared | None:
        def look(session: Session) -> tuple[int, MediaFacts] | None:
            row = session.get(PreparedMedia, (blob_id, plan.key))
            if row is None:
                return None
            row.last_used_at = self._now()
            return row.blob_id, MediaFacts.model_validate(row.model_dump())

        found = await self._db.write(look, durable=False)
        if found is None:
            return None
        return _prepared(await self._store.get(found[0]), found[1])

    def _remember(
        self, session: Session, source: int, plan: Plan, blob: StoredBlob, facts: MediaFacts
    ) -> None:
        now = self._now()
        columns = facts.model_dump(exclude={"rotation"})
        session.add(
            PreparedMedia(
                source_blob_id=source,
                plan=plan.key,
                blob_id=blob.id,
                created_at=now,
                last_used_at=now,
                **columns,
            )
        )
        session.flush()


def _prepared(blob: StoredBlob, facts: MediaFacts) -> Prepared:
    return Prepared(blob, facts, f"{blob.sha256}{_SUFFIXES[facts.media_type]}")
