"""Writes real mp4 files. PyAV and Pillow are imported where they are used, to start quickly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.standin.clips import Clip, Sound

if TYPE_CHECKING:
    from PIL.Image import Image

BOX_HEADER = 8
SAMPLES = 44_100
MARK = "stand-in"


def encode(
    clip: Clip,
    path: Path,
    *,
    rate: Fraction,
    crf: int = 23,
    sound: Sound | None = None,
    prompt: Mapping[str, Any] | None = None,
) -> None:
    """Write frames and sound as H.264 and AAC in an mp4, marked as the stand-in's.

    Args:
        clip: The frames; odd sizes lose a row or column, which yuv420p cannot hold.
        path: Where to write.
        rate: Frames a second.
        crf: Quality, as x264 reads it.
        sound: Audio to cut to the length of the frames.
        prompt: A graph to put into the file's metadata, as SaveVideo does.
    """
    import av  # noqa: PLC0415

    width, height = clip.width // 2 * 2, clip.height // 2 * 2
    mark = _mark(width)
    with av.open(path, "w", options={"movflags": "use_metadata_tags"}) as container:
        if prompt is not None:
            container.metadata["prompt"] = json.dumps(prompt)
        options = {"preset": "ultrafast", "crf": str(crf)}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count = 1
        heard = container.add_stream("aac", rate=SAMPLES, layout="stereo") if sound else None
        for given in clip.frames():
            image = given.crop((0, 0, width, height))
            image.paste(mark, (4, 4), mark)
            container.mux(stream.encode(_frame(image)))
        container.mux(stream.encode())
        if sound is not None and heard is not None:
            _add_sound(container, heard, sound, clip.count / rate)


def with_sound(silent: Path, path: Path, sound: Sound) -> None:
    """Copy a video's frames as they are and add sound of the same length."""
    import av  # noqa: PLC0415

    with av.open(silent) as source, av.open(path, "w") as container:
        shown = source.streams.video[0]
        copied = container.add_stream_from_template(shown)
        heard = container.add_stream("aac", rate=SAMPLES, layout="stereo")
        seconds = Fraction(shown.duration or 0) * (shown.time_base or 0)
        for packet in source.demux(shown):
            if packet.dts is not None:
                packet.stream = copied
                container.mux(packet)
        _add_sound(container, heard, sound, seconds)


def _mark(width: int) -> Image:
    """The words that stand on every frame, a fifth of its width."""
    from PIL import Image as Pillow  # noqa: PLC0415
    from PIL import ImageDraw, ImageFont  # noqa: PLC0415

    font: Any = ImageFont.load_default(size=max(6, width // 20))
    left, top, right, bottom = font.getbbox(MARK)
    mark = Pillow.new("RGBA", (int(right - left) + 4, int(bottom - top) + 4), (0, 0, 0, 96))
    ImageDraw.Draw(mark).text((2 - left, 2 - top), MARK, font=font, fill=(255, 255, 255, 224))
    return mark


def _frame(image: Image) -> Any:  # noqa: ANN401 - PyAV's frame
    import av  # noqa: PLC0415

    make: Any = av.VideoFrame.from_image
    return make(image)


def _add_sound(container: Any, stream: Any, sound: Sound, seconds: Fraction) -> None:  # noqa: ANN401
    """Encode a stretch of a file, cut to the frames' length."""
    import av  # noqa: PLC0415

    wanted = int(SAMPLES * min(seconds, sound.duration or seconds))
    resampler = av.AudioResampler(format="fltp", layout="stereo", rate=SAMPLES)
    written = 0
    with av.open(sound.path) as source:
        for frame in source.decode(source.streams.audio[0]):
            if written >= wanted:
                break
            if (frame.time or 0.0) < sound.start - frame.samples / frame.sample_rate / 2:
                continue
            for part in resampler.resample(frame):
                part.pts = written
                written += part.samples
                container.mux(stream.encode(part))
    container.mux(stream.encode())


def pad(path: Path, size: int) -> None:
    """Fill an mp4 up to a size with a trailing box that players skip.

    A sparse box: the file system need not hold the zeros.
    """
    missing = size - path.stat().st_size
    if missing < BOX_HEADER:
        return
    with path.open("ab") as file:
        file.write(min(missing, 0xFFFFFFFF).to_bytes(4, "big") + b"free")
        file.truncate(size)


def picture(clip: Clip, path: Path, prompt: Mapping[str, Any]) -> None:
    """The PNG that VHS_VideoCombine leaves beside its video: a frame, and the whole graph."""
    from PIL.PngImagePlugin import PngInfo  # noqa: PLC0415

    info = PngInfo()
    info.add_text("prompt", json.dumps(prompt))
    next(clip.frames()).save(path, pnginfo=info, compress_level=1)
