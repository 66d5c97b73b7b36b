"""What the engine made is checked and served without its secrets."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from PIL import Image

from app.errors import UnsupportedMedia
from app.media.output import Expected, finish_video
from app.media.sandbox import Sandbox
from app.wire import MediaFacts
from tests import mediakit

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = '{"prompt": "a secret", "path": "/home/somebody"}'


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return mediakit.make_video(
        tmp_path / "engine.mp4",
        width=480,
        height=832,
        frames=17,
        fps=16,
        audio=True,
        metadata={"comment": SECRET, "title": SECRET, "artist": SECRET},
    )


async def test_a_finished_video_starts_at_once_and_tells_only_what_it_may(
    made: Path, sandbox: Sandbox, spool: Path
) -> None:
    expected = Expected(width=480, height=832, frames=17, fps=16)
    assert b"a secret" in made.read_bytes()  # noqa: ASYNC240
    async with finish_video(
        made,
        expected=expected,
        title="SteadyDancer",
        comment="seed 42",
        sandbox=sandbox,
        spool=spool,
    ) as finished:
        content = finished.video.read_bytes()
        assert b"secret" not in content
        assert b"somebody" not in content
        assert content.index(b"moov") < content.index(b"mdat")
        with av.open(str(finished.video)) as opened:
            assert opened.metadata["title"] == "SteadyDancer"
            assert opened.metadata["comment"] == "seed 42"
        with Image.open(finished.poster) as poster:
            assert poster.format == "JPEG"
            assert poster.size == (finished.poster_width, finished.poster_height)
            assert max(poster.size) == 640
        assert finished.facts.has_audio
        assert _packets(finished.video) == _packets(made)
    assert list(spool.iterdir()) == []  # noqa: ASYNC240


def _packets(path: Path) -> list[tuple[str, float, bytes]]:
    with av.open(str(path)) as opened:
        return sorted(
            (packet.stream.type, float(packet.pts * packet.time_base), bytes(packet))
            for packet in opened.demux()
            if packet.pts is not None
        )


@pytest.mark.parametrize(
    ("expected", "words"),
    [
        (Expected(width=512), "width is 480, not 512"),
        (Expected(height=480), "height is 832, not 480"),
        (Expected(frames=81), "frames is 17, not 81"),
        (Expected(fps=24), r"fps is 16\.0, not 24"),
    ],
)
async def test_a_video_that_was_not_asked_for_is_refused(
    made: Path, sandbox: Sandbox, spool: Path, expected: Expected, words: str
) -> None:
    with pytest.raises(UnsupportedMedia, match=words):
        async with finish_video(
            made, expected=expected, title="", comment="", sandbox=sandbox, spool=spool
        ):
            pass
    assert list(spool.iterdir()) == []  # noqa: ASYNC240


async def facts_of(path: Path, *, sandbox: Sandbox, spool: Path, **expected: int) -> MediaFacts:
    async with finish_video(
        path,
        expected=Expected(**expected),
        title="",
        comment="",
        sandbox=sandbox,
        spool=spool,
    ) as finished:
        return finished.facts


async def test_a_cut_off_video_is_refused(made: Path, sandbox: Sandbox, spool: Path) -> None:
    made.write_bytes(made.read_bytes()[:-2000])  # noqa: ASYNC240
    with pytest.raises(UnsupportedMedia):
        await facts_of(made, sandbox=sandbox, spool=spool)


async def test_every_frame_that_was_asked_for_is_decoded(
    tmp_path: Path, sandbox: Sandbox, spool: Path
) -> None:
    path = mediakit.make_video(tmp_path / "a.mp4", frames=33, fps=16, faststart=True)
    facts = await facts_of(path, sandbox=sandbox, spool=spool, frames=33, fps=16)
    assert facts.duration_seconds == pytest.approx(33 / 16, abs=1e-3)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UnsupportedMedia, match="not 33"):
        await facts_of(path, sandbox=sandbox, spool=spool, frames=33, fps=16)
