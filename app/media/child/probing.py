"""Finding out what a file is by decoding it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.media.child.frames import (
    DAMAGED,
    codec_name,
    decoded,
    flushed,
    opened,
    packets,
    picture_stream,
    turns,
)
from app.media.child.images import check_size, open_image, rotation
from app.media.child.refusal import Refused
from app.media.sniff import HEAD_BYTES, WOULD_WORK, Sniffed, sniff

_SAME_RATE = 0.005
"""A measured rate this close to the one that the file states is taken to be it."""


def probe(*, path: str, expect: str | None, limits: dict[str, Any]) -> dict[str, Any]:
    """What a file is, as the members of `wire.MediaFacts`.

    Raises:
        Refused: It is of a kind that is not accepted, damaged, or over a limit.
    """
    sniffed = identify(path, expect)
    if sniffed.kind == "image":
        return _probe_image(path, sniffed, limits)
    return probe_video(path, sniffed, limits)


def identify(path: str, expect: str | None) -> Sniffed:
    """The file's format by its first bytes, refused in words where it is not what is expected."""
    with Path(path).open("rb") as file:
        sniffed = sniff(file.read(HEAD_BYTES))
    if sniffed.kind is None or expect not in {None, sniffed.kind}:
        raise Refused(f"The file is {sniffed.words}. {WOULD_WORK[expect]}")
    return sniffed


def _probe_image(path: str, sniffed: Sniffed, limits: dict[str, Any]) -> dict[str, Any]:
    image = open_image(path, sniffed.name, limits)
    turn = rotation(image)
    width, height = image.size if turn % 180 == 0 else (image.height, image.width)
    return {
        "kind": "image",
        "media_type": sniffed.media_type,
        "width": width,
        "height": height,
        "frames": 1,
        "codec": sniffed.name,
        "rotation": turn,
    }


def probe_video(path: str, sniffed: Sniffed, limits: dict[str, Any]) -> dict[str, Any]:
    """What a video is. Its frames are decoded, up to a number, and counted after that."""
    with opened(path, sniffed.name) as source:
        stream = picture_stream(source, limits["max_video_pixels"])
        check_size("video", stream.width, stream.height, limits["max_video_pixels"], limits)
        stated = source.duration / 1_000_000 if source.duration else 0.0
        _check_length(stated, stream.frames, limits)
        seen = _Seen()
        for time in seen.walk(source, stream, limits["decode_frames"]):
            _check_length(time, seen.frames, limits)
        if seen.first is None:
            raise Refused(f"The video has no frame that can be decoded. {DAMAGED}")
        fps, duration = seen.rate(float(stream.average_rate or stream.guessed_rate or 0))
        _check_length(duration, seen.frames, limits)
        turn, _ = turns(seen.first)
        width, height = display_size(seen.first, stream.sample_aspect_ratio, turn)
        return {
            "kind": "video",
            "media_type": sniffed.media_type,
            "width": width,
            "height": height,
            "frames": seen.frames,
            "fps": round(fps, 4),
            "duration_seconds": round(duration, 4),
            "has_audio": any(one.codec_context is not None for one in source.streams.audio),
            "codec": codec_name(stream),
            "rotation": turn,
        }


def display_size(frame: Any, aspect: Any, turn: int) -> tuple[int, int]:  # noqa: ANN401
    """Size on the screen: pixels made square, then turned."""
    width, height = frame.width, frame.height
    if aspect and aspect > 0 and aspect != 1:
        width = max(round(width * aspect), 1)
    return (width, height) if turn % 180 == 0 else (height, width)


def _check_length(seconds: float, frames: int, limits: dict[str, Any]) -> None:
    if seconds > limits["max_duration_seconds"]:
        raise Refused(
            f"The video is {seconds:.0f} seconds long; at most "
            f"{limits['max_duration_seconds']:g} are accepted. Cut it and send it again."
        )
    if frames > limits["max_frames"]:
        raise Refused(
            f"The video has {frames:,} frames; at most {limits['max_frames']:,} are accepted. "
            "Cut it and send it again."
        )


class _Seen:
    """What walking through a video found."""

    def __init__(self) -> None:
        self.frames = 0
        self.first: Any = None
        self._start: float | None = None
        self._last = 0.0

    def walk(self, source: Any, stream: Any, decode: int) -> Iterator[float]:  # noqa: ANN401
        """Go through the whole file; gives the time reached, in seconds from the first frame."""
        decoding = True
        for packet in packets(source, stream):
            if decoding:
                for frame in decoded(packet):
                    yield self._count(frame)
                if self.frames >= decode:
                    decoding = False
                    for frame in flushed(stream):
                        yield self._count(frame)
            elif packet.size and not packet.is_corrupt and not packet.is_discard:
                self.frames += 1
                if packet.pts is not None:
                    yield self._reach(float(packet.pts * packet.time_base))

    def _count(self, frame: Any) -> float:  # noqa: ANN401
        self.frames += 1
        self.first = self.first or frame
        return self._reach(frame.time) if frame.time is not None else self._last

    def _reach(self, time: float) -> float:
        if self._start is None:
            self._start = time
        self._last = max(self._last, time - self._start)
        return self._last

    def rate(self, stated: float) -> tuple[float, float]:
        """Frames per second and length in seconds, measured where they can be."""
        if self.frames > 1 and self._last > 0:
            fps = (self.frames - 1) / self._last
            if stated and abs(fps - stated) <= _SAME_RATE * stated:
                return stated, self.frames / stated
            return fps, self._last + 1 / fps
        fps = stated or 25.0
        return fps, self.frames / fps
