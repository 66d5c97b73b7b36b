"""What becomes of the engine's video: checked, made fit to be served, with a poster."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from uuid_utils import uuid7

from app.errors import UnsupportedMedia
from app.media.files import unlink
from app.media.sandbox import Sandbox
from app.wire import MediaFacts

_POSTER_SIDE = 640


@dataclass(frozen=True, slots=True)
class Expected:
    """What the engine was asked for; None where anything goes."""

    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """A video that can be served.

    Attributes:
        video: The mp4: playable from its first bytes, without the engine's metadata.
        facts: What it is.
        poster: A JPEG of one frame, its longer side at most 640 pixels.
        poster_width: Width of the poster in pixels.
        poster_height: Height of the poster in pixels.
    """

    video: Path
    facts: MediaFacts
    poster: Path
    poster_width: int
    poster_height: int


@asynccontextmanager
async def finish_video(
    path: Path,
    *,
    expected: Expected,
    title: str,
    comment: str,
    sandbox: Sandbox,
    spool: Path,
) -> AsyncGenerator[Finished]:
    """Check the engine's file, remux it for serving, and draw its poster, in one child.

    The engine's own metadata, which may hold the prompt and paths, is dropped. The files go when
    the context ends.

    Args:
        path: The engine's file.
        expected: What was asked for.
        title: Title that the mp4 is to carry.
        comment: Comment that it is to carry, such as the seed.
        sandbox: Where it is decoded.
        spool: Directory for the two files.

    Raises:
        UnsupportedMedia: It does not decode, or is not what was asked for.
        StorageFull: No room in the spool.
    """
    name = uuid7()
    video, poster = spool / f"{name}.mp4", spool / f"{name}.jpg"
    limits = sandbox.limits
    try:
        made = await sandbox.run(
            "finish",
            seconds=limits.prepare_seconds,
            path=str(path),
            target=str(video),
            poster=str(poster),
            metadata={"title": title, "comment": comment},
            poster_side=_POSTER_SIDE,
            limits=asdict(limits),
        )
        facts = MediaFacts.model_validate(made["video"])
        compare(facts, expected)
        size = made["poster"]
        yield Finished(video, facts, poster, size["width"], size["height"])
    finally:
        await unlink(video)
        await unlink(poster)


def compare(facts: MediaFacts, expected: Expected) -> None:
    """Refuse a file that is not what was asked for.

    Raises:
        UnsupportedMedia: With every difference named.
    """
    differences = [
        f"{name} is {found}, not {wanted}"
        for name, found, wanted in (
            ("width", facts.width, expected.width),
            ("height", facts.height, expected.height),
            ("frames", facts.frames, expected.frames),
        )
        if wanted is not None and found != wanted
    ]
    if expected.fps is not None and abs((facts.fps or 0) - expected.fps) > 0.01 * expected.fps:
        differences.append(f"fps is {facts.fps}, not {expected.fps}")
    if differences:
        raise UnsupportedMedia(f"The video is not what was asked for: {'; '.join(differences)}.")
