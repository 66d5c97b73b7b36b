"""Videos as the loader nodes read them. PyAV is imported where it is used, to start quickly."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.standin.clips import Clip, Sound

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Source:
    """A video file as found: its clip, rate and sound."""

    clip: Clip
    rate: Fraction
    sound: Sound | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which frames of a file VHS_LoadVideo takes.

    Attributes:
        rate: Frames a second to sample at; 0 keeps the file's own.
        cap: At most so many frames; 0 takes all.
        skip: Frames left out at the start, counted after the change of rate.
        nth: Only every nth frame.
        wan: Whether the count is cut to 4n+1.
    """

    rate: float = 0
    cap: int = 0
    skip: int = 0
    nth: int = 1
    wan: bool = False

    def of(self, count: int, own_rate: float) -> list[int]:
        """The indexes of the frames taken, one for each frame given, in order."""
        given = (index for index in _resampled(count, own_rate, self.rate or own_rate))
        taken = list(itertools.islice(given, self.skip, None, self.nth))
        taken = taken[: self.cap or None]
        return taken[: (len(taken) - 1) // 4 * 4 + 1] if self.wan and taken else taken


def _resampled(count: int, own_rate: float, rate: float) -> Iterator[int]:
    """Walks the file as VideoHelperSuite does: by the rates, not by the frames' own times."""
    step, wanted = 1 / own_rate, 1 / rate
    passed, index = wanted, -1
    while True:
        while passed < wanted:
            index += 1
            passed += step
            if index >= count:
                return
        if index < 0:
            index = 0
            if not count:
                return
        passed -= wanted
        yield index


def load(path: Path, choice: Choice | None = None) -> Source:
    """Read a video file as LoadVideo and VHS_LoadVideo do; frames are decoded later.

    Raises:
        av.error.InvalidDataError: The file is no video.
        RuntimeError: The choice leaves no frame.
    """
    import av  # noqa: PLC0415

    with av.open(path) as container:
        stream = container.streams.video[0]
        own = stream.average_rate or Fraction(16)
        audible = bool(container.streams.audio)
        packets = sum(1 for packet in container.demux(stream) if packet.size)
    width, height, turn = _measure(path)
    choice = choice or Choice()
    indexes = choice.of(packets, float(own))
    if not indexes:
        raise RuntimeError("No frames generated")
    rate = (Fraction(choice.rate).limit_denominator(1001) if choice.rate else own) / choice.nth
    clip = Clip(len(indexes), width, height, lambda: _images(path, indexes, turn))
    seconds = len(indexes) / float(rate)
    start = choice.skip / float(rate * choice.nth)
    return Source(clip, rate, Sound(path, start, seconds) if audible else None)


def _measure(path: Path) -> tuple[int, int, int]:
    """Width and height as shown, and the quarter turns (in degrees) that bring them about."""
    import av  # noqa: PLC0415

    with av.open(path) as container:
        for frame in container.decode(container.streams.video[0]):
            turn = int(frame.rotation) % 360
            sides = (frame.width, frame.height)
            width, height = sides[::-1] if turn in {90, 270} else sides
            return width, height, turn
    raise RuntimeError("No frames generated")


def _images(path: Path, indexes: Sequence[int], turn: int) -> Iterator[Image]:
    """The frames at some ascending indexes; one index may come several times."""
    import av  # noqa: PLC0415

    with av.open(path) as container:
        wanted = iter(indexes)
        due = next(wanted, None)
        frames: Any = enumerate(container.decode(container.streams.video[0]))
        for index, frame in frames:
            while due == index:
                image: Image = frame.to_image()
                yield image.rotate(turn, expand=True) if turn else image
                due = next(wanted, None)
            if due is None:
                return
