"""Frames and sound: read from real files, changed, and written as a real mp4.

Frames are never held all at once: a `Clip` knows how many there are and can be read again.
PyAV and Pillow are imported where they are used, because the server must start quickly.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

BOX_HEADER = 8


@dataclass(frozen=True, slots=True)
class Sound:
    """A stretch of a file's first audio stream, in seconds."""

    path: Path
    start: float = 0.0
    duration: float | None = None


@dataclass(frozen=True, slots=True)
class Clip:
    """A batch of equal frames.

    Attributes:
        count: How many frames there are.
        width: In pixels.
        height: In pixels.
        frames: Starts reading them from the first.
    """

    count: int
    width: int
    height: int
    frames: Callable[[], Iterator[Image]] = field(repr=False)

    def part(self, start: int, length: int) -> Clip:
        """Some of the frames, as far as they exist."""
        if start < 0:
            start += self.count
        start = min(max(start, 0), self.count - 1)
        length = max(1, min(length, self.count - start))
        source = self.frames
        return replace(
            self, count=length, frames=lambda: itertools.islice(source(), start, start + length)
        )

    def sized(self, width: int, height: int, *, crop: bool) -> Clip:
        """The frames at another size; 0 keeps the proportion, as ComfyUI reads it."""
        if not width and not height:
            return self
        width = width or max(1, round(self.width * height / self.height))
        height = height or max(1, round(self.height * width / self.width))
        if (width, height) == (self.width, self.height):
            return self
        source = self.frames

        def resized() -> Iterator[Image]:
            return (fit(image, width, height, crop=crop) for image in source())

        return Clip(self.count, width, height, resized)

    def then(self, other: Clip) -> Clip:
        """These frames followed by others, brought to this size."""
        other = other.sized(self.width, self.height, crop=True)
        return replace(
            self,
            count=self.count + other.count,
            frames=lambda: itertools.chain(self.frames(), other.frames()),
        )

    def repeated(self, count: int) -> Clip:
        """Exactly so many frames, from the start again where there are too few."""
        source = self.frames

        def cycled() -> Iterator[Image]:
            given = 0
            while given < count:
                for image in itertools.islice(source(), count - given):
                    yield image
                    given += 1

        return replace(self, count=count, frames=cycled)

    def mapped(self, change: Callable[[int, Image], Image]) -> Clip:
        """Each frame changed."""
        source = self.frames
        return replace(
            self, frames=lambda: (change(index, image) for index, image in enumerate(source()))
        )


def fit(image: Image, width: int, height: int, *, crop: bool) -> Image:
    """One image at a size, cut at the center or stretched."""
    from PIL import Image as Pillow  # noqa: PLC0415 - keeps the start quick
    from PIL import ImageOps  # noqa: PLC0415

    if crop:
        return ImageOps.fit(image, (width, height), Pillow.Resampling.BILINEAR)
    return image.resize((width, height), Pillow.Resampling.BILINEAR)


def still(path: Path) -> Clip:
    """An image file as a clip of one frame.

    Raises:
        PIL.UnidentifiedImageError: The file is no image.
    """
    from PIL import Image as Pillow  # noqa: PLC0415
    from PIL import ImageOps  # noqa: PLC0415

    with Pillow.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    return one(image)


def one(image: Image) -> Clip:
    """A clip of one frame."""
    return Clip(1, image.width, image.height, lambda: iter([image]))


def plain(width: int, height: int, count: int, color: int) -> Clip:
    """Frames of one color, given as 0xRRGGBB."""
    from PIL import Image as Pillow  # noqa: PLC0415

    image = Pillow.new("RGB", (width, height), (color >> 16 & 255, color >> 8 & 255, color & 255))
    return Clip(count, width, height, lambda: itertools.repeat(image, count))


@dataclass(frozen=True, slots=True)
class Source:
    """A video file as found: its clip, rate and sound."""

    clip: Clip
    rate: Fraction
    sound: Sound | None


def load(
    path: Path, *, rate: float = 0, cap: int = 0, skip: int = 0, nth: int = 1, wan: bool = False
) -> Source:
    """Read a video as VHS_LoadVideo and LoadVideo do.

    Args:
        path: The file.
        rate: Frames a second to sample at; 0 keeps the file's own.
        cap: At most so many frames; 0 takes all.
        skip: Frames left out at the start, counted after the change of rate.
        nth: Only every nth frame.
        wan: Whether the count is cut to 4n+1.

    Raises:
        av.error.InvalidDataError: The file is no video.
    """
    import av  # noqa: PLC0415

    with av.open(path) as container:
        stream = container.streams.video[0]
        own = stream.average_rate or Fraction(16)
        audible = bool(container.streams.audio)
        turned = _turn(container, stream)

    def chosen() -> Iterator[Any]:
        picked = itertools.islice(_sampled(path, rate), skip, None, nth)
        return itertools.islice(picked, cap or None)

    count, width, height = 0, 0, 0
    for frame in chosen():
        count, width, height = count + 1, frame.width, frame.height
    if not count:
        raise ValueError("No frames generated")
    if wan:
        count = (count - 1) // 4 * 4 + 1
    if turned in {90, 270}:
        width, height = height, width

    def images() -> Iterator[Image]:
        return (_upright(frame.to_image(), turned) for frame in itertools.islice(chosen(), count))

    wanted = Fraction(rate).limit_denominator(1001) if rate else own
    wanted /= nth
    sound = Sound(path, skip / float(wanted), count / float(wanted)) if audible else None
    return Source(Clip(count, width, height, images), wanted, sound)


def _turn(container: Any, stream: Any) -> int:  # noqa: ANN401 - PyAV objects
    for frame in container.decode(stream):
        return int(frame.rotation) % 360
    return 0


def _upright(image: Image, turned: int) -> Image:
    return image.rotate(turned, expand=True) if turned else image


def _sampled(path: Path, rate: float) -> Iterator[Any]:
    import av  # noqa: PLC0415

    with av.open(path) as container:
        frames = container.decode(container.streams.video[0])
        if not rate:
            yield from frames
            return
        due = 0
        last = None
        start = None
        for frame in frames:
            at = float(frame.time or 0.0)
            start = at if start is None else start
            while last is not None and due / rate < at - start - 1e-6:
                yield last
                due += 1
            last = frame
        if last is not None:
            yield last


def encode(clip: Clip, path: Path, *, rate: Fraction, sound: Sound | None, pad_to: int = 0) -> None:
    """Write frames and sound as H.264 and AAC in an mp4.

    Args:
        clip: The frames; odd sizes lose a row or column, which H.264 cannot hold.
        path: Where to write.
        rate: Frames a second.
        sound: Audio to cut to the length of the frames.
        pad_to: Size in bytes to fill up to; 0 leaves the file as it is.
    """
    import av  # noqa: PLC0415

    with av.open(path, "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast"})
        stream.width, stream.height = clip.width // 2 * 2, clip.height // 2 * 2
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        heard = None
        if sound is not None:
            heard = container.add_stream("aac", rate=44100, layout="stereo")
        for image in clip.frames():
            if image.size != (stream.width, stream.height):
                image = image.crop((0, 0, stream.width, stream.height))  # noqa: PLW2901
            container.mux(stream.encode(_frame(image)))
        container.mux(stream.encode())
        if sound is not None and heard is not None:
            _sound(container, heard, sound, clip.count / float(rate))
    pad(path, pad_to)


def _frame(image: Image) -> Any:  # noqa: ANN401 - PyAV's frame
    import av  # noqa: PLC0415

    make: Any = av.VideoFrame.from_image
    return make(image)


def _sound(container: Any, stream: Any, sound: Sound, seconds: float) -> None:  # noqa: ANN401
    import av  # noqa: PLC0415

    length = seconds if sound.duration is None else min(seconds, sound.duration)
    resampler = av.AudioResampler(format="fltp", layout="stereo", rate=44100)
    with av.open(sound.path) as source:
        written = 0
        for frame in source.decode(source.streams.audio[0]):
            at = float(frame.time or 0.0)
            if at < sound.start - 1e-3:
                continue
            if at >= sound.start + length:
                break
            for part in resampler.resample(frame):
                part.pts = written
                written += part.samples
                container.mux(stream.encode(part))
    container.mux(stream.encode())


def pad(path: Path, size: int) -> None:
    """Fill an mp4 up to a size with a trailing box that players skip."""
    missing = size - path.stat().st_size
    if missing < BOX_HEADER:
        return
    with path.open("ab") as file:
        file.write(min(missing, 0xFFFFFFFF).to_bytes(4, "big") + b"free")
        file.truncate(size)


def picture(clip: Clip, path: Path) -> None:
    """The PNG of the first frame that VHS_VideoCombine leaves beside its video."""
    next(clip.frames()).save(path)
