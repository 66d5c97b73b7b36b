"""Making what the engine gets: upright, at the asked rate and range, in formats that it knows."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import av.error
from av.filter.graph import Graph
from PIL import Image

from app.media.child import audio
from app.media.child.frames import DAMAGED, frames, opened, picture_stream, turns
from app.media.child.images import check_size, open_image, upright_rgb
from app.media.child.probing import display_size, identify
from app.media.child.refusal import Refused

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_TURN = {0: [], 90: ["transpose=clock"], 180: ["hflip", "vflip"], 270: ["transpose=cclock"]}
_SEEK_SECONDS = 5.0
"""A start later than this is sought by key frame; before it, decoding from the first is as quick
and never depends on the file's index."""

_ENCODER = {"crf": "14", "preset": "veryfast"}
"""Visually lossless for a picture that will be resized and read by a pose detector."""


def prepare_image(
    *, path: str, target: str, max_side: int | None, limits: dict[str, Any]
) -> dict[str, Any]:
    """Write the picture upright, RGB and without its metadata; PNG, or JPEG if it was one."""
    sniffed = identify(path, "image")
    image = upright_rgb(open_image(path, sniffed.name, limits))
    width, height = fitted(image.width, image.height, max_side, even=False)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    image.info.clear()
    if sniffed.name == "jpeg":
        image.save(target, format="JPEG", quality=95, subsampling=0)
    else:
        image.save(target, format="PNG", compress_level=3)
    return {
        "kind": "image",
        "media_type": "image/jpeg" if sniffed.name == "jpeg" else "image/png",
        "width": width,
        "height": height,
        "frames": 1,
        "codec": "jpeg" if sniffed.name == "jpeg" else "png",
    }


def prepare_video(
    *,
    path: str,
    target: str,
    start_seconds: float,
    fps: float,
    frames: int | None,
    keep_audio: bool,
    max_side: int | None,
    limits: dict[str, Any],
) -> dict[str, Any]:
    """Write a range of the video as H.264 mp4 at a constant rate, upright, with even sides."""
    sniffed = identify(path, "video")
    rate = Fraction(fps).limit_denominator(1001)
    with (
        opened(path, sniffed.name) as source,
        av.open(target, "w", format="mp4", options={"movflags": "+faststart"}) as output,
    ):
        stream = picture_stream(source, limits["max_video_pixels"])
        check_size("video", stream.width, stream.height, limits["max_video_pixels"], limits)
        origin = _origin(stream)
        encoder = output.add_stream("libx264", rate=rate, options=_ENCODER)
        encoder.pix_fmt = "yuv420p"
        encoder.codec_context.time_base = 1 / rate
        encoder.codec_context.thread_count = 2
        wanted = frames if frames is not None else limits["max_frames"]
        sound = None
        if keep_audio:
            sound = audio.stream_of(source)
        voice = output.add_stream("aac", rate=audio.RATE) if sound is not None else None
        made = 0
        upright = _Upright(stream, max_side)
        timed = _timed(source, stream, origin, start_seconds)
        for number, frame in enumerate(nearest(timed, start_seconds, rate, wanted)):
            picture = upright(frame, number)
            if number == 0:
                encoder.width, encoder.height = picture.width, picture.height
            picture.time_base = 1 / rate
            output.mux(encoder.encode(picture))
            made += 1
        if made == 0:
            raise Refused(
                f"The video has no frame at {start_seconds:g} seconds or after it. "
                "Choose an earlier start_seconds."
            )
        output.mux(encoder.encode(None))
        if voice is not None:
            begin = origin + start_seconds
            audio.copy_range(
                path, sniffed.name, output, voice, begin=begin, seconds=made / float(rate)
            )
        return {
            "kind": "video",
            "media_type": "video/mp4",
            "width": encoder.width,
            "height": encoder.height,
            "frames": made,
            "fps": round(float(rate), 4),
            "duration_seconds": round(made / float(rate), 4),
            "has_audio": voice is not None,
            "codec": "h264",
        }


def nearest(
    timed: Iterator[tuple[float, VideoFrame]], start: float, rate: Fraction, wanted: int
) -> Iterator[VideoFrame]:
    """The frame nearest in time to each tick of the new rate, to the end of the last frame."""
    period = 1 / float(rate)
    made = 0
    before: tuple[float, VideoFrame] | None = None
    length = 0.0
    for time, frame in timed:
        if before is not None:
            length = time - before[0]
            while made < wanted and (tick := start + made * period) < time:
                yield before[1] if tick - before[0] <= time - tick else frame
                made += 1
        before = time, frame
        if made >= wanted:
            return
    if before is None:
        return
    # Half a tick of tolerance would invent a frame; a rounding error must not lose one.
    end = before[0] + (length or period) - 1e-6
    while made < wanted and start + made * period < end:
        yield before[1]
        made += 1


def fitted(width: int, height: int, max_side: int | None, *, even: bool) -> tuple[int, int]:
    """The size with its longer side at most `max_side`, never enlarged."""
    scale = min(1.0, max_side / max(width, height)) if max_side else 1.0
    step = 2 if even else 1
    return tuple(max(int(side * scale) // step * step, step) for side in (width, height))  # type: ignore[return-value]


def _origin(stream: VideoStream) -> float:
    if stream.start_time is None or stream.time_base is None:
        return 0.0
    return float(stream.start_time * stream.time_base)


def _timed(
    source: InputContainer, stream: VideoStream, origin: float, start: float
) -> Iterator[tuple[float, VideoFrame]]:
    """Frames with their seconds from the first one, beginning not long before `start`."""
    if start > _SEEK_SECONDS and stream.time_base is not None:
        try:
            source.seek(int((origin + start) / stream.time_base), stream=stream, backward=True)
        except av.error.FFmpegError as error:
            raise Refused(f"The video has no usable index to start from. {DAMAGED}") from error
    time = 0.0
    for frame in frames(source, stream):
        time = frame.time - origin if frame.pts is not None else time
        yield time, frame


class _Upright:
    """Turns, squares and converts frames; what it needs is built anew when frames change size."""

    def __init__(self, stream: VideoStream, max_side: int | None) -> None:
        self._aspect = stream.sample_aspect_ratio
        self._max_side = max_side
        self._size: tuple[int, int] | None = None
        self._graphs: dict[tuple[int, int, str], Graph] = {}
        self._turns: tuple[int, bool] | None = None

    def __call__(self, frame: VideoFrame, number: int) -> VideoFrame:
        if self._turns is None:
            self._turns = turns(frame)
        if self._size is None:
            width, height = display_size(frame, self._aspect, self._turns[0])
            self._size = fitted(width, height, self._max_side, even=True)
        key = frame.width, frame.height, frame.format.name
        if key not in self._graphs:
            self._graphs[key] = self._build(frame)
        frame.pts = number
        self._graphs[key].vpush(frame)
        return self._graphs[key].vpull()

    def _build(self, frame: VideoFrame) -> Graph:
        turn, mirrored = self._turns or (0, False)
        width, height = self._size or (frame.width, frame.height)
        graph = Graph()
        graph.threads = 2
        chain = [
            graph.add_buffer(
                width=frame.width,
                height=frame.height,
                format=frame.format,
                time_base=Fraction(1, 1000),
            )
        ]
        steps = ["hflip"] * mirrored + _TURN[turn]
        steps += [f"scale={width}:{height}:flags=bicubic:out_range=tv", "setsar=1"]
        for step in [*steps, "format=yuv420p"]:
            name, _, args = step.partition("=")
            chain.append(graph.add(name, args or None))
        chain.append(graph.add("buffersink"))
        graph.link_nodes(*chain)
        graph.configure()
        return graph
