"""The engine gets upright frames of the asked range and rate, and nothing is made twice."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import av
import pytest
from PIL import Image
from sqlmodel import Session, func, select

from app.database import Database
from app.errors import NotFound, UnsupportedMedia
from app.media.prepare import ImagePlan, Prepared, Preparer, VideoPlan
from app.media.probe import probe
from app.media.sandbox import Sandbox
from app.media.store import BlobStore
from app.media.tables import Blob, PreparedMedia
from tests import mediakit
from tests.conftest import Clock

pytestmark = pytest.mark.asyncio(loop_scope="module")

WHOLE = VideoPlan(fps=24)


class Kitchen:
    """Puts a file into the store, has it prepared, and gives the result as a file."""

    def __init__(self, store: BlobStore, preparer: Preparer, directory: Path) -> None:
        self.store = store
        self.preparer = preparer
        self.directory = directory

    async def put(self, content: bytes) -> int:
        async def pieces() -> AsyncIterator[bytes]:
            yield content

        return (await self.store.put(pieces())).id

    async def serve(self, prepared: Prepared) -> Path:
        path = self.directory / prepared.filename
        path.write_bytes(b"".join([p async for p in self.store.read(prepared.blob.id)]))
        return path

    async def video(self, source: Path, plan: VideoPlan) -> tuple[Prepared, Path]:
        content = source.read_bytes()  # noqa: ASYNC240
        prepared = await self.preparer.prepare(await self.put(content), plan)
        return prepared, await self.serve(prepared)


@pytest.fixture
def preparer(
    db: Database, store: BlobStore, sandbox: Sandbox, spool: Path, clock: Clock
) -> Preparer:
    return Preparer(db=db, store=store, sandbox=sandbox, spool=spool, now=clock)


@pytest.fixture
def kitchen(store: BlobStore, preparer: Preparer, tmp_path: Path) -> Kitchen:
    return Kitchen(store, preparer, tmp_path)


@pytest.mark.parametrize(
    ("fps", "to", "start", "frames", "expected"),
    [
        (24, 24, 0, None, list(range(24))),
        (24, 12, 0, None, [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22]),
        (24, 16, 0, None, [0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16, 18, 19, 21, 22]),
        (24, 16, 0, 5, [0, 1, 3, 4, 6]),
        (24, 24, 0.5, None, list(range(12, 24))),
        (12, 24, 0, 9, [0, 0, 1, 1, 2, 2, 3, 3, 4]),
        (24, 8, 0.9, 81, [22]),
    ],
)
async def test_each_tick_gets_the_nearest_frame_of_the_range(  # noqa: PLR0917
    kitchen: Kitchen,
    tmp_path: Path,
    fps: float,
    to: float,
    start: float,
    frames: int | None,
    expected: list[int],
) -> None:
    source = mediakit.make_video(tmp_path / "a.mp4", fps=fps, frames=24)
    plan = VideoPlan(fps=to, frames=frames, start_seconds=start)
    prepared, path = await kitchen.video(source, plan)
    found = [mediakit.number_of(picture) for picture in mediakit.pictures_of(path)]
    assert len(found) == prepared.facts.frames == len(expected)
    # A tick that lies exactly between two frames may take either.
    ties = {k for k in range(len(expected)) if abs((start + k / to) * fps % 1 - 0.5) < 1e-6}
    for k, (have, want) in enumerate(zip(found, expected, strict=True)):
        assert have == want or (k in ties and have == want + 1), (k, found, expected)
    assert prepared.facts.fps == to


async def test_a_late_start_is_found_by_key_frame_and_still_exact(
    kitchen: Kitchen, tmp_path: Path
) -> None:
    source = mediakit.make_video(tmp_path / "a.mp4", fps=4, frames=44)
    _, path = await kitchen.video(source, VideoPlan(fps=4, start_seconds=8, frames=5))
    found = [mediakit.number_of(picture) for picture in mediakit.pictures_of(path)]
    assert found == [32, 33, 34, 35, 36]


@pytest.mark.parametrize("container", ["a.mp4", "a.mkv", "a.webm"])
async def test_what_is_made_is_h264_yuv420p_in_mp4_that_starts_at_once(
    kitchen: Kitchen, sandbox: Sandbox, tmp_path: Path, container: str
) -> None:
    codec = "libvpx-vp9" if container.endswith("webm") else "libx264"
    source = mediakit.make_video(tmp_path / container, codec=codec, audio=True)
    prepared, path = await kitchen.video(source, WHOLE)
    with av.open(str(path)) as opened:
        stream = opened.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    again = await probe(path, sandbox=sandbox)
    assert again == prepared.facts


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
async def test_a_turned_video_arrives_upright(
    kitchen: Kitchen, tmp_path: Path, degrees: int
) -> None:
    # What a player shows of it: FFmpeg's degrees turn counterclockwise, as Pillow's do.
    expected = mediakit.corners(mediakit.drawing().rotate(degrees, expand=True))
    source = mediakit.make_video(tmp_path / "a.mp4", rotation=degrees, frames=3)
    prepared, path = await kitchen.video(source, WHOLE)
    first = mediakit.pictures_of(path)[0]
    assert mediakit.corners(first) == expected
    assert first.size == (prepared.facts.width, prepared.facts.height)
    assert first.size == ((96, 64) if degrees % 180 else (64, 96))


async def test_a_mirrored_video_arrives_as_it_is_shown(kitchen: Kitchen, tmp_path: Path) -> None:
    source = mediakit.make_video(tmp_path / "a.mp4", mirrored=True, frames=3)
    _, path = await kitchen.video(source, WHOLE)
    assert mediakit.corners(mediakit.pictures_of(path)[0]) == "gryb"


async def test_odd_sides_become_even_and_large_ones_fit(kitchen: Kitchen, tmp_path: Path) -> None:
    source = mediakit.make_video(tmp_path / "a.mkv", codec="libvpx-vp9", width=65, height=97)
    prepared, _ = await kitchen.video(source, WHOLE)
    assert (prepared.facts.width, prepared.facts.height) == (64, 96)
    small, _ = await kitchen.video(source, replace(WHOLE, max_side=48))
    assert (small.facts.width, small.facts.height) == (32, 48)


async def test_sound_is_kept_and_cut_to_the_range(kitchen: Kitchen, tmp_path: Path) -> None:
    source = mediakit.make_video(tmp_path / "a.mp4", frames=48, audio=True)
    plan = VideoPlan(fps=24, start_seconds=0.5, frames=21)
    prepared, path = await kitchen.video(source, plan)
    assert prepared.facts.has_audio
    with av.open(str(path)) as opened:
        samples = sum(frame.samples for frame in opened.decode(audio=0))
    # The first 1,024 samples of AAC are its priming, the last piece is filled up.
    assert samples / 48_000 == pytest.approx(21 / 24, abs=2 * 1024 / 48_000)


async def test_sound_is_left_out_when_not_wanted_or_not_there(
    kitchen: Kitchen, tmp_path: Path
) -> None:
    loud = mediakit.make_video(tmp_path / "a.mp4", audio=True)
    silent = mediakit.make_video(tmp_path / "b.mp4")
    for source, keep in ((loud, False), (silent, True)):
        prepared, path = await kitchen.video(source, replace(WHOLE, keep_audio=keep))
        assert not prepared.facts.has_audio
        with av.open(str(path)) as opened:
            assert not opened.streams.audio


async def test_a_start_after_the_end_is_refused_with_words(
    kitchen: Kitchen, tmp_path: Path
) -> None:
    source = mediakit.make_video(tmp_path / "a.mp4")
    with pytest.raises(UnsupportedMedia, match="no frame at 7 seconds"):
        await kitchen.video(source, replace(WHOLE, start_seconds=7))


@pytest.mark.parametrize("orientation", range(1, 9))
async def test_a_photo_arrives_upright_whatever_its_exif_says(
    kitchen: Kitchen, orientation: int
) -> None:
    turns = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_270],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_90],
    }
    expected = mediakit.drawing()
    for turn in turns.get(orientation, []):
        expected = expected.transpose(turn)
    source = await kitchen.put(mediakit.image_bytes("JPEG", orientation=orientation))
    prepared = await kitchen.preparer.prepare(source, ImagePlan())
    with Image.open(await kitchen.serve(prepared)) as image:
        assert image.size == expected.size
        assert mediakit.corners(image) == mediakit.corners(expected)
        assert not image.getexif()


async def test_transparency_becomes_white_and_every_mode_becomes_rgb(kitchen: Kitchen) -> None:
    for mode, color in (
        ("RGBA", (0, 0, 0, 0)),
        ("LA", (0, 0)),
        ("P", 0),
        ("L", 255),
        ("1", 1),
        ("I;16", 65535),
    ):
        image = Image.new(mode, (32, 32), color)
        out = io.BytesIO()
        image.save(out, format="PNG", **({"transparency": 0} if mode == "P" else {}))
        prepared = await kitchen.preparer.prepare(await kitchen.put(out.getvalue()), ImagePlan())
        with Image.open(await kitchen.serve(prepared)) as made:
            assert (made.mode, made.getpixel((5, 5))) == ("RGB", (255, 255, 255)), mode


async def test_what_hides_behind_a_picture_does_not_reach_the_engine(kitchen: Kitchen) -> None:
    secret = b"PK\x03\x04<script>secret</script>"
    for format_ in ("JPEG", "PNG"):
        source = await kitchen.put(mediakit.image_bytes(format_) + secret)
        prepared = await kitchen.preparer.prepare(source, ImagePlan())
        assert b"secret" not in (await kitchen.serve(prepared)).read_bytes()


async def test_a_phones_double_picture_is_taken_as_its_first(
    kitchen: Kitchen, sandbox: Sandbox, tmp_path: Path
) -> None:
    path = tmp_path / "a.jpg"
    mediakit.drawing().save(
        path, format="MPO", save_all=True, append_images=[mediakit.drawing(number=9)]
    )
    assert (await probe(path, sandbox=sandbox)).media_type == "image/jpeg"
    prepared = await kitchen.preparer.prepare(await kitchen.put(path.read_bytes()), ImagePlan())
    assert (prepared.facts.width, prepared.facts.height) == (64, 96)


async def test_the_same_source_and_plan_is_prepared_once(
    kitchen: Kitchen, db: Database, sandbox: Sandbox, tmp_path: Path
) -> None:
    source = await kitchen.put(mediakit.make_video(tmp_path / "a.mp4").read_bytes())
    first = await kitchen.preparer.prepare(source, WHOLE)
    await sandbox.aclose()
    assert await kitchen.preparer.prepare(source, WHOLE) == first
    assert not sandbox.running
    other = await kitchen.preparer.prepare(source, replace(WHOLE, fps=12))
    assert other.blob.id != first.blob.id
    rows = await db.read(
        lambda session: session.exec(select(func.count()).select_from(PreparedMedia)).one()
    )
    assert rows == 2


async def test_prepared_files_outlive_a_grace_and_go_after_their_ttl(
    kitchen: Kitchen, db: Database, clock: Clock, tmp_path: Path
) -> None:
    source = await kitchen.put(mediakit.make_video(tmp_path / "a.mp4").read_bytes())
    prepared = await kitchen.preparer.prepare(source, WHOLE)

    def blobs(session: Session) -> set[int | None]:
        return set(session.exec(select(Blob.id)).all())

    clock.advance(3600)
    assert await kitchen.preparer.sweep(ttl=timedelta(hours=2)) == 0
    await kitchen.preparer.prepare(source, WHOLE)
    clock.advance(3600)
    assert await kitchen.preparer.sweep(ttl=timedelta(hours=1, seconds=1)) == 0
    clock.advance(7200)
    assert await kitchen.preparer.sweep(ttl=timedelta(hours=1)) == 1
    assert prepared.blob.id in await db.read(blobs)
    await kitchen.store.sweep(grace=timedelta(hours=1))
    assert await db.read(blobs) == set()


async def test_a_source_that_is_gone_is_said_to_be(kitchen: Kitchen) -> None:
    with pytest.raises(NotFound):
        await kitchen.preparer.prepare(4711, WHOLE)


async def test_nothing_is_left_in_the_spool(kitchen: Kitchen, spool: Path, tmp_path: Path) -> None:
    source = await kitchen.put(mediakit.make_video(tmp_path / "a.mp4").read_bytes())
    await kitchen.preparer.prepare(source, WHOLE)
    with pytest.raises(UnsupportedMedia):
        await kitchen.preparer.prepare(await kitchen.put(b"rubbish"), WHOLE)
    assert list(spool.iterdir()) == []  # noqa: ASYNC240
