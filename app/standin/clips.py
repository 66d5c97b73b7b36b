"""Batches of frames that are read when they are needed, never held all at once.

Pillow is imported where it is used: the server must start quickly.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL.Image import Image

Fit = Literal["stretch", "crop", "pad", "inside"]
"""How a picture meets a size: deformed, cut, with borders, or as large as fits."""


@dataclass(frozen=True, slots=True)
class Sound:
    """A stretch of a file's first audio stream, in seconds; no duration means to its end."""

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
        original: The frames that these were drawn after, where they are skeletons.
    """

    count: int
    width: int
    height: int
    frames: Callable[[], Iterator[Image]] = field(repr=False)
    original: Clip | None = field(default=None, repr=False)

    def part(self, start: int, length: int) -> Clip:
        """Some of the frames, as far as they exist."""
        if start < 0:
            start += self.count
        start = min(max(start, 0), self.count - 1)
        length = max(1, min(length, self.count - start))
        source = self.frames
        return replace(
            self,
            count=length,
            frames=lambda: itertools.islice(source(), start, start + length),
            original=self.original.part(start, length) if self.original else None,
        )

    def sized(self, width: int, height: int, *, how: Fit) -> Clip:
        """The frames at another size; 0 keeps the proportion, as ComfyUI reads it."""
        if not width and not height:
            return self
        width = width or max(1, round(self.width * height / self.height))
        height = height or max(1, round(self.height * width / self.width))
        if how == "inside":
            ratio = min(width / self.width, height / self.height)
            width, height = max(1, round(self.width * ratio)), max(1, round(self.height * ratio))
        if (width, height) == (self.width, self.height):
            return self
        source = self.frames

        def resized() -> Iterator[Image]:
            return (fit(image, width, height, how=how) for image in source())

        original = self.original.sized(width, height, how=how) if self.original else None
        return Clip(self.count, width, height, resized, original)

    def then(self, other: Clip) -> Clip:
        """These frames followed by others, brought to this size."""
        other = other.sized(self.width, self.height, how="crop")
        return Clip(
            self.count + other.count,
            self.width,
            self.height,
            lambda: itertools.chain(self.frames(), other.frames()),
        )

    def repeated(self, count: int) -> Clip:
        """Exactly so many frames, from the start again where there are too few."""
        source = self.frames

        def cycled() -> Iterator[Image]:
            return itertools.islice(
                itertools.chain.from_iterable(source() for _ in itertools.count()), count
            )

        return replace(self, count=count, frames=cycled)

    def mapped(self, change: Callable[[int, Image], Image]) -> Clip:
        """Each frame changed; the change is given its number, from 0."""
        source = self.frames
        return replace(
            self, frames=lambda: (change(index, image) for index, image in enumerate(source()))
        )


def fit(image: Image, width: int, height: int, *, how: Fit) -> Image:
    """One image at a size."""
    from PIL import Image as Pillow  # noqa: PLC0415
    from PIL import ImageOps  # noqa: PLC0415

    size, filter_ = (width, height), Pillow.Resampling.BILINEAR
    match how:
        case "crop":
            return ImageOps.fit(image, size, filter_)
        case "pad":
            return ImageOps.pad(image, size, filter_)
        case _:
            return image.resize(size, filter_)


def still(path: Path) -> Clip:
    """An image file as a clip of one frame, turned as its EXIF says.

    Raises:
        PIL.UnidentifiedImageError: The file is no image.
    """
    from PIL import Image as Pillow  # noqa: PLC0415
    from PIL import ImageOps  # noqa: PLC0415

    with Pillow.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    return Clip(1, image.width, image.height, lambda: iter([image]))


def plain(width: int, height: int, count: int, color: int) -> Clip:
    """Frames of one color, given as 0xRRGGBB."""

    def frames() -> Iterator[Image]:
        from PIL import Image as Pillow  # noqa: PLC0415

        rgb = (color >> 16 & 255, color >> 8 & 255, color & 255)
        return itertools.repeat(Pillow.new("RGB", (width, height), rgb), count)

    return Clip(count, width, height, frames)


def skeletons(clip: Clip) -> Clip:
    """Outlines on black: what stands for a pose video."""
    from PIL import ImageFilter  # noqa: PLC0415

    def outline(_: int, image: Image) -> Image:
        edges = image.convert("L").filter(ImageFilter.FIND_EDGES)
        return edges.point(lambda level: min(255, level * 3)).convert("RGB")

    return replace(clip.mapped(outline), original=clip)


def danced(pose: Clip, reference: Clip | None) -> Clip:
    """The reference picture laid over the frames that the poses came from."""
    from PIL import Image as Pillow  # noqa: PLC0415

    moving = pose.original or pose
    if reference is None:
        return moving
    person = next(reference.sized(moving.width, moving.height, how="crop").frames())
    return moving.mapped(lambda _, image: Pillow.blend(image, person, 0.5))
