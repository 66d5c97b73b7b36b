"""Small real media files for tests, each made by the libraries that will read them."""

from __future__ import annotations

import io
import math
from array import array
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
from PIL import Image, ImageDraw

ORIENTATION = 0x0112


def drawing(width: int = 64, height: int = 96, *, number: int = 0) -> Image.Image:
    """A picture whose corners differ, red upper left, and whose middle shows its number in bits."""
    image = Image.new("RGB", (width, height), "black")
    draw = ImageDraw.Draw(image)
    across, down = width // 2, height // 2
    draw.rectangle((0, 0, across - 1, down - 1), fill=(220, 30, 30))
    draw.rectangle((across, 0, width, down - 1), fill=(30, 200, 30))
    draw.rectangle((0, down, across - 1, height), fill=(30, 30, 220))
    draw.rectangle((across, down, width, height), fill=(220, 220, 30))
    for bit, box in enumerate(_cells(width, height)):
        draw.rectangle(box, fill="white" if number >> bit & 1 else "black")
    return image


def _cells(width: int, height: int) -> list[tuple[int, int, int, int]]:
    """Where the six bits of a frame's number are drawn, in the middle of the picture."""
    wide, high = width // 8, height // 8
    left, top = (width - 3 * wide) // 2, (height - 2 * high) // 2
    return [
        (left + x * wide, top + y * high, left + (x + 1) * wide - 1, top + (y + 1) * high - 1)
        for y in range(2)
        for x in range(3)
    ]


def number_of(image: Image.Image) -> int:
    """Which frame (of the first 64) an upright decoded picture is."""
    gray = image.convert("L")
    number = 0
    for bit, (left, top, right, bottom) in enumerate(_cells(*image.size)):
        level: Any = gray.getpixel(((left + right) // 2, (top + bottom) // 2))
        number |= (level > 128) << bit
    return number


def corners(image: Image.Image) -> str:
    """The colors of the corners in reading order, such as `rgby` for an upright drawing."""
    width, height = image.size
    names = ""
    for x, y in ((4, 4), (width - 5, 4), (4, height - 5), (width - 5, height - 5)):
        pixel: Any = image.convert("RGB").getpixel((x, y))
        red, green, blue = pixel
        names += "y" if min(red, green) > 120 else "rgb"[pixel.index(max(red, green, blue))]
    return names


def image_bytes(
    format_: str = "PNG", *, width: int = 64, height: int = 96, orientation: int = 1, **save: object
) -> bytes:
    """An image file; `orientation` is its EXIF orientation."""
    image = drawing(width, height)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    out = io.BytesIO()
    image.save(out, format=format_, exif=exif, **cast("Any", save))
    return out.getvalue()


def animation_bytes(format_: str = "WEBP", frames: int = 3) -> bytes:
    """An animated image."""
    pictures = [drawing(number=number * 9) for number in range(frames)]
    out = io.BytesIO()
    pictures[0].save(out, format=format_, save_all=True, append_images=pictures[1:], duration=100)
    return out.getvalue()


def make_video(
    path: Path,
    *,
    width: int = 64,
    height: int = 96,
    frames: int = 24,
    fps: float = 24,
    rotation: int = 0,
    mirrored: bool = False,
    audio: bool = False,
    codec: str = "libx264",
    container: str | None = None,
    metadata: dict[str, str] | None = None,
    faststart: bool = False,
) -> Path:
    """A video whose frame n shows `drawing(number=n)`, with a 440 Hz tone if asked.

    Args:
        path: Where to write it; its suffix chooses the container unless `container` does.
        width: Stored width.
        height: Stored height.
        frames: Number of frames; 0 writes none.
        fps: Frames per second.
        rotation: Degrees counterclockwise that a player turns the picture, as FFmpeg counts.
        mirrored: Whether a player mirrors it too.
        audio: Whether there is sound.
        codec: FFmpeg's name of the video encoder.
        container: FFmpeg's name of the muxer.
        metadata: Tags of the file.
        faststart: Whether the index of an mp4 comes first.
    """
    rate = Fraction(fps).limit_denominator(1001)
    options = {"movflags": "+faststart"} if faststart else {}
    with av.open(str(path), "w", format=container, options=options) as output:
        output.metadata.update(metadata or {})
        stream: Any = output.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        if rotation or mirrored:
            stream.set_display_rotation(rotation, hflip=mirrored)
        voice = "libopus" if path.suffix == ".webm" else "aac"
        sound: Any = output.add_stream(voice, rate=48_000) if audio else None
        output.start_encoding()
        for number in range(frames):
            frame = av.VideoFrame.from_image(drawing(width, height, number=number))  # type: ignore[no-untyped-call]
            frame.pts, frame.time_base = number, 1 / rate
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if sound is not None:
            for piece in tone(frames / float(rate)):
                output.mux(sound.encode(piece))
            output.mux(sound.encode(None))
    return path


def tone(seconds: float, hertz: float = 440.0, rate: int = 48_000) -> list[av.AudioFrame]:
    """A mono tone in pieces of 960 samples."""
    pieces = []
    for begin in range(0, int(seconds * rate), 960):
        samples = array(
            "f", (0.3 * math.sin(2 * math.pi * hertz * n / rate) for n in range(begin, begin + 960))
        )
        frame = av.AudioFrame(format="fltp", layout="mono", samples=960)
        frame.planes[0].update(samples.tobytes())
        frame.sample_rate, frame.pts, frame.time_base = rate, begin, Fraction(1, rate)
        pieces.append(frame)
    return pieces


def make_audio(path: Path, seconds: float = 1.0) -> Path:
    """A file with sound and no picture."""
    with av.open(str(path), "w") as output:
        sound = output.add_stream("aac", rate=48_000)
        for piece in tone(seconds):
            output.mux(sound.encode(piece))
        output.mux(sound.encode(None))
    return path


def pictures_of(path: Path) -> list[Image.Image]:
    """Every frame of a video as it is stored."""
    with av.open(str(path)) as source:
        return [frame.to_image() for frame in source.decode(video=0)]  # type: ignore[no-untyped-call]


def frames_that_decode(path: Path) -> list[Image.Image]:
    """The frames of a damaged video up to where it is cut off."""
    pictures = []
    try:
        with av.open(str(path)) as source:
            for frame in source.decode(video=0):
                pictures.append(frame.to_image())  # type: ignore[no-untyped-call]  # noqa: PERF401 - what came before the fault counts
    except av.error.FFmpegError:
        pass
    return pictures
