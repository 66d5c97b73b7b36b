"""The sound of a range of a video."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import av.error
from av.filter.graph import Graph

from app.media.child.frames import opened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer

RATE = 48_000
"""Sample rate of what is written, in hertz."""

_AAC_SAMPLES = 1024


def stream_of(source: InputContainer) -> AudioStream | None:
    """The first audio stream that can be decoded."""
    usable = (one for one in source.streams.audio if one.codec_context is not None)  # type: ignore[redundant-expr]
    return next(usable, None)


def copy_range(
    path: str,
    container: str,
    output: OutputContainer,
    target: AudioStream,
    *,
    begin: float,
    seconds: float,
) -> None:
    """Encode the sound from `begin`, in the file's own time, for `seconds`; gaps are silence."""
    with opened(path, container) as source:
        stream = stream_of(source)
        if stream is None:
            return
        graph: Graph | None = None
        for frame in _decoded(source, stream, begin + seconds):
            if graph is None:
                graph = _build(frame, begin, seconds)
            _push(graph, frame)
            _drain(graph, output, target)
        if graph is not None:
            _push(graph, None)
            _drain(graph, output, target)
        output.mux(target.encode(None))


def _decoded(source: InputContainer, stream: AudioStream, end: float) -> Iterator[AudioFrame]:
    try:
        for packet in source.demux(stream):
            try:
                for frame in packet.decode():
                    if frame.time is not None and frame.time > end:
                        return
                    yield frame
            except av.error.InvalidDataError:
                continue
    except av.error.FFmpegError:
        return


def _build(frame: AudioFrame, begin: float, seconds: float) -> Graph:
    graph = Graph()
    steps: list[tuple[str, str]] = [
        ("atrim", f"start={begin:.6f}:end={begin + seconds:.6f}"),
        ("asetpts", f"PTS-{begin:.6f}/TB"),
        ("aresample", f"{RATE}:async=1:first_pts=0"),
        ("aformat", "sample_fmts=fltp:channel_layouts=stereo"),
        ("asetnsamples", f"n={_AAC_SAMPLES}:p=0"),
    ]
    chain: list[Any] = [
        graph.add_abuffer(
            sample_rate=frame.sample_rate,
            format=frame.format,
            layout=frame.layout,
            time_base=frame.time_base,
        )
    ]
    chain += [graph.add(name, args) for name, args in steps]
    chain.append(graph.add("abuffersink"))
    graph.link_nodes(*chain)
    graph.configure()
    return graph


def _push(graph: Graph, frame: AudioFrame | None) -> None:
    try:
        graph.push(frame)
    except av.error.EOFError:
        return  # all of the range is there already


def _drain(graph: Graph, output: OutputContainer, target: AudioStream) -> None:
    while True:
        try:
            frame = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        output.mux(target.encode(frame))  # type: ignore[arg-type]
