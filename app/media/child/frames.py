"""Opening a video without letting it open anything else, and reading frames with their times."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import av
import av.error
from av.buffer import Buffer
from av.container import InputContainer
from av.stream import Disposition

from app.media.child.refusal import Refused

if TYPE_CHECKING:
    from av.codec.context import CodecContext
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_DEMUXERS = {"mp4": "mov", "mov": "mov", "webm": "matroska", "mkv": "matroska"}

CODECS = frozenset(
    {"h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "prores", "mjpeg", "mpeg2video", "dnxhd"}
)
"""What cameras, phones and browsers put into the accepted containers."""

DAMAGED = "Re-encode it as H.264 mp4 and send it again."


@contextmanager
def opened(path: str, container: str) -> Iterator[InputContainer]:
    """Open a file as the container that its first bytes say, and as nothing else.

    With the demuxer named, a playlist or concat script cannot make FFmpeg open further files.
    """
    options = {"protocol_whitelist": "file"}
    try:
        source = av.open(
            f"file:{path}",
            format=_DEMUXERS[container],
            options=options,
            metadata_errors="ignore",
        )
    except av.error.FFmpegError as error:
        raise Refused(
            f"The file begins like {container} but is cut off or damaged: no video can be read "
            f"from it. {DAMAGED}"
        ) from error
    with source:
        yield source


def picture_stream(source: InputContainer, max_pixels: int) -> VideoStream:
    """The stream that shows moving pictures, set up so that it cannot explode.

    Raises:
        Refused: There is none, or its codec is not accepted.
    """
    moving = [
        stream
        for stream in source.streams.video
        if not stream.disposition & Disposition.attached_pic
    ]
    if not moving:
        what = "only audio" if source.streams.audio else "no picture at all"
        raise Refused(f"The file contains {what}; a video with moving pictures is needed.")
    stream = moving[0]
    if codec_name(stream) not in CODECS:
        raise Refused(f"The video's codec, {codec_name(stream)}, is not accepted. {DAMAGED}")
    # The header's size was checked; the stream's own may differ, and the decoder checks that.
    stream.codec_context.options = {"max_pixels": str(max_pixels)}
    stream.thread_type = "AUTO"
    stream.codec_context.thread_count = 2
    return stream


def codec_name(stream: VideoStream) -> str:
    """The codec's usual name, whichever decoder reads it."""
    context: CodecContext | None = stream.codec_context
    return context.codec.canonical_name if context is not None else "an unknown one"


def packets(source: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """The stream's packets as far as the file has them; the last one, empty, flushes."""
    try:
        yield from source.demux(stream)
    except av.error.FFmpegError:
        return  # cut off: what came before counts


def decoded(packet: Packet[VideoStream]) -> list[VideoFrame]:
    """The frames that a packet gives; a damaged one gives none."""
    try:
        return [frame for frame in packet.decode() if frame.width]
    except (av.error.InvalidDataError, av.error.EOFError):
        return []


def frames(source: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Every frame that decodes, in the order of display."""
    for packet in packets(source, stream):
        yield from decoded(packet)
    yield from flushed(stream)


def flushed(stream: VideoStream) -> list[VideoFrame]:
    """What the decoder still holds."""
    try:
        return list(stream.codec_context.decode(None))
    except (av.error.InvalidDataError, av.error.EOFError):
        return []


def turns(frame: VideoFrame) -> tuple[int, bool]:
    """Degrees clockwise to turn a frame for display, and whether to mirror it first.

    The display matrix has nine 32-bit numbers; a negative determinant of its left upper corner
    is a mirror image, as some phones record with the front camera.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(matrix, Buffer):
        return 0, False
    numbers = memoryview(bytes(matrix)).cast("i")
    a, b, c, d = numbers[0], numbers[1], numbers[3], numbers[4]
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    if abs(a) >= abs(b):
        return (0 if a > 0 else 180), mirrored
    return (90 if b > 0 else 270), mirrored
