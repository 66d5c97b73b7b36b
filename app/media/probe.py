"""What a media file is, found by decoding it in a child process."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

import anyio

from app.errors import UnsupportedMedia
from app.media.sandbox import Sandbox
from app.wire import MediaFacts


async def probe(
    path: Path, *, sandbox: Sandbox, expect: Literal["image", "video"] | None = None
) -> MediaFacts:
    """Identify and decode a file, whatever it is called.

    Args:
        path: The file.
        sandbox: Where it is decoded, and under which limits.
        expect: What it must be; None accepts both.

    Raises:
        UnsupportedMedia: It is empty, damaged, of another kind, or over a limit; in words that say
            what it is and what would work.
    """
    limits = sandbox.limits
    if (await anyio.Path(path).stat()).st_size > limits.max_bytes:
        raise UnsupportedMedia(
            f"The file is larger than the {limits.max_bytes >> 20} MiB accepted."
        )
    facts = await sandbox.run(
        "probe", seconds=limits.probe_seconds, path=str(path), expect=expect, limits=asdict(limits)
    )
    return MediaFacts.model_validate(facts)
