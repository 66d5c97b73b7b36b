"""What a file is, not what it is called; and every refusal says what would work."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from app.errors import UnsupportedMedia
from app.media.limits import MediaLimits
from app.media.probe import probe
from app.media.sandbox import Sandbox
from tests import mediakit

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("name", "codec", "media_type", "called"),
    [
        ("a.mp4", "libx264", "video/mp4", "h264"),
        ("a.mov", "libx264", "video/quicktime", "h264"),
        ("a.mkv", "libx264", "video/x-matroska", "h264"),
        ("a.webm", "libvpx-vp9", "video/webm", "vp9"),
        ("b.webm", "libsvtav1", "video/webm", "av1"),
    ],
)
async def test_accepted_videos_are_told_apart_by_content(
    tmp_path: Path, sandbox: Sandbox, name: str, codec: str, media_type: str, called: str
) -> None:
    made = mediakit.make_video(tmp_path / name, codec=codec, frames=12, audio=True)
    path = made.rename(tmp_path / "holiday.txt")
    facts = await probe(path, sandbox=sandbox)
    assert (facts.kind, facts.media_type, facts.codec) == ("video", media_type, called)
    assert (facts.width, facts.height, facts.frames, facts.fps) == (64, 96, 12, 24)
    assert facts.duration_seconds == pytest.approx(0.5, abs=0.001)
    assert facts.has_audio


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
async def test_accepted_images_are_told_apart_by_content(
    tmp_path: Path, sandbox: Sandbox, format_: str
) -> None:
    path = tmp_path / "image.mp4"
    path.write_bytes(mediakit.image_bytes(format_))
    facts = await probe(path, sandbox=sandbox)
    assert facts.media_type == f"image/{format_.lower()}"
    assert (facts.width, facts.height, facts.frames, facts.fps) == (64, 96, 1, None)


@pytest.mark.parametrize(
    ("degrees", "size", "clockwise"),
    [(0, (64, 96), 0), (90, (96, 64), 270), (180, (64, 96), 180), (-90, (96, 64), 90)],
)
async def test_the_size_is_as_displayed(
    tmp_path: Path, sandbox: Sandbox, degrees: int, size: tuple[int, int], clockwise: int
) -> None:
    path = mediakit.make_video(tmp_path / "a.mp4", rotation=degrees, frames=3)
    facts = await probe(path, sandbox=sandbox)
    assert ((facts.width, facts.height), facts.rotation) == (size, clockwise)


@pytest.mark.parametrize(
    ("orientation", "size", "clockwise"),
    [
        (1, (64, 96), 0),
        (3, (64, 96), 180),
        (5, (96, 64), 270),
        (6, (96, 64), 90),
        (8, (96, 64), 270),
    ],
)
async def test_the_size_of_a_photo_is_as_displayed(
    tmp_path: Path, sandbox: Sandbox, orientation: int, size: tuple[int, int], clockwise: int
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(mediakit.image_bytes("JPEG", orientation=orientation))
    facts = await probe(path, sandbox=sandbox)
    assert (facts.width, facts.height) == size
    assert facts.rotation == clockwise


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
AVIF = b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(100)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"not a video at all\n", "is text"),
        (HEIC, "a HEIC image"),
        (AVIF, "an AVIF image"),
        (b"GIF89a" + bytes(50), "a GIF"),
        (b'<?xml version="1.0"?><svg xmlns="x"/>', "an SVG drawing"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "a playlist"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "is text"),
        (b"RIFF\0\0\0\0AVI LIST" + bytes(50), "an AVI video"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"PK\x03\x04" + bytes(50), "a ZIP archive"),
        (b"\x7fELF" + bytes(50), "a program"),
        (bytes(1000), "not known"),
    ],
)
async def test_what_is_not_accepted_is_named_with_what_would_work(
    tmp_path: Path, sandbox: Sandbox, content: bytes, words: str
) -> None:
    path = tmp_path / "dance.mp4"
    path.write_bytes(content)
    with pytest.raises(UnsupportedMedia, match=words) as caught:
        await probe(path, sandbox=sandbox, expect="video")
    assert "Send an mp4, webm, mov or mkv video." in caught.value.detail


async def test_an_image_for_a_video_and_a_video_for_an_image_are_refused(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    image = tmp_path / "a.mp4"
    image.write_bytes(mediakit.image_bytes())
    with pytest.raises(UnsupportedMedia, match=r"a PNG image\. Send an mp4"):
        await probe(image, sandbox=sandbox, expect="video")
    video = mediakit.make_video(tmp_path / "b.mp4", frames=2)
    with pytest.raises(UnsupportedMedia, match=r"an mp4 video\. Send a PNG"):
        await probe(video, sandbox=sandbox, expect="image")


@pytest.mark.parametrize("format_", ["WEBP", "PNG"])
async def test_an_animated_image_is_refused(tmp_path: Path, sandbox: Sandbox, format_: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(mediakit.animation_bytes(format_))
    with pytest.raises(UnsupportedMedia, match="animated"):
        await probe(path, sandbox=sandbox)


async def test_sound_without_a_picture_is_refused(tmp_path: Path, sandbox: Sandbox) -> None:
    path = mediakit.make_audio(tmp_path / "a.mp4")
    with pytest.raises(UnsupportedMedia, match="only audio"):
        await probe(path, sandbox=sandbox)


async def test_a_video_without_frames_is_refused(tmp_path: Path, sandbox: Sandbox) -> None:
    path = mediakit.make_video(tmp_path / "a.mkv", frames=0)
    with pytest.raises(UnsupportedMedia, match=r"no frame|cut off or damaged|no picture"):
        await probe(path, sandbox=sandbox)


async def test_a_video_cut_off_before_its_index_is_refused(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    path = mediakit.make_video(tmp_path / "a.mp4", frames=24)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnsupportedMedia, match="cut off or damaged"):
        await probe(path, sandbox=sandbox)


async def test_frames_are_counted_as_they_decode_not_as_the_file_claims(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    path = mediakit.make_video(tmp_path / "a.mp4", frames=48, faststart=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    facts = await probe(path, sandbox=sandbox)
    there = len(mediakit.frames_that_decode(path))
    assert 0 < there < 48
    assert facts.frames == there
    assert facts.duration_seconds == pytest.approx(there / 24, abs=0.05)


async def test_frames_past_the_decoded_ones_are_counted_too(tmp_path: Path) -> None:
    path = mediakit.make_video(tmp_path / "a.mp4", frames=48)
    box = Sandbox(limits=MediaLimits(decode_frames=10))
    facts = await probe(path, sandbox=box)
    await box.aclose()
    assert (facts.frames, facts.duration_seconds) == (48, 2.0)


def png_claiming(width: int, height: int) -> bytes:
    """A tiny file that says it is huge: the classic decompression bomb."""

    def part(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", pixels) + part(b"IEND", b"")


async def test_a_decompression_bomb_is_refused_by_its_header(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_claiming(60_000, 60_000))
    with pytest.raises(UnsupportedMedia, match=r"60000x60000.*at most 50,000,000"):
        await probe(path, sandbox=sandbox)


async def test_decoding_within_the_pixel_limit_still_obeys_the_memory_limit(
    tmp_path: Path,
) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(mediakit.image_bytes(width=9000, height=9000, compress_level=1))
    box = Sandbox(limits=MediaLimits(max_image_pixels=10**9, memory_bytes=400 << 20))
    with pytest.raises(UnsupportedMedia, match="400 MiB"):
        await probe(path, sandbox=box)
    await box.aclose()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_bytes": 100}, "larger than"),
        ({"max_duration_seconds": 0.5}, "1 seconds long; at most 0.5"),
        ({"max_frames": 10}, "24 frames; at most 10"),
        ({"max_video_pixels": 64 * 95}, "64x96"),
        ({"min_side": 65}, "at least 65"),
    ],
)
async def test_every_limit_is_held_and_named(
    tmp_path: Path, change: dict[str, float], words: str
) -> None:
    path = mediakit.make_video(tmp_path / "a.mp4")
    box = Sandbox(limits=replace(MediaLimits(), **change))  # type: ignore[arg-type]
    with pytest.raises(UnsupportedMedia, match=words):
        await probe(path, sandbox=box)
    await box.aclose()


async def test_a_stream_larger_than_its_header_says_is_not_decoded(tmp_path: Path) -> None:
    path = mediakit.make_video(tmp_path / "a.mp4", width=640, height=640, frames=2)
    content = path.read_bytes()
    size = struct.pack(">HH", 640, 640)
    assert size in content
    path.write_bytes(content.replace(size, struct.pack(">HH", 64, 64)))
    box = Sandbox(limits=MediaLimits(max_video_pixels=320 * 320))
    with pytest.raises(UnsupportedMedia):
        await probe(path, sandbox=box)
    await box.aclose()


@pytest.mark.parametrize("head", ["a.png", "a.jpg", "a.webp", "a.mp4", "a.mkv"])
async def test_a_polyglot_that_only_begins_like_media_is_refused(
    tmp_path: Path, sandbox: Sandbox, head: str
) -> None:
    path = tmp_path / head
    if head in {"a.mp4", "a.mkv"}:
        mediakit.make_video(path, frames=2)
    else:
        format_ = {"a.png": "PNG", "a.jpg": "JPEG", "a.webp": "WEBP"}[head]
        path.write_bytes(mediakit.image_bytes(format_))
    path.write_bytes(path.read_bytes()[:32] + b"<script>alert(1)</script>" * 100)
    with pytest.raises(UnsupportedMedia, match=r"cut off or damaged|no frame|no picture"):
        await probe(path, sandbox=sandbox)


async def test_a_codec_that_is_not_accepted_is_named(tmp_path: Path, sandbox: Sandbox) -> None:
    path = mediakit.make_video(tmp_path / "a.mkv", codec="ffv1", frames=2)
    with pytest.raises(UnsupportedMedia, match="ffv1"):
        await probe(path, sandbox=sandbox)
