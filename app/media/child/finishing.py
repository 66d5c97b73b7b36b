"""What becomes of the engine's video: checked, remuxed without its secrets, with a poster."""

from __future__ import annotations

from typing import Any

import av
import av.error

from app.media.child.frames import DAMAGED, decoded, opened, packets, picture_stream
from app.media.child.preparing import fitted
from app.media.child.probing import identify, probe_video
from app.media.child.refusal import Refused


def finish(
    *,
    path: str,
    target: str,
    poster: str,
    metadata: dict[str, str],
    poster_side: int,
    limits: dict[str, Any],
) -> dict[str, Any]:
    """Check the video, write it playable from its first bytes, and a still of it.

    Raises:
        Refused: It is not a video that decodes.
    """
    sniffed = identify(path, "video")
    facts = probe_video(path, sniffed, limits)
    remux(path, sniffed.name, target, metadata)
    facts["media_type"] = "video/mp4"
    size = draw_poster(path, sniffed.name, poster, poster_side, limits)
    return {"video": facts, "poster": {"width": size[0], "height": size[1]}}


def remux(path: str, container: str, target: str, metadata: dict[str, str]) -> None:
    """Copy the streams into a faststart mp4 that carries `metadata` and no other."""
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with (
        opened(path, container) as source,
        av.open(target, "w", format="mp4", options=options) as output,
    ):
        kept = {}
        for stream in [*source.streams.video[:1], *source.streams.audio[:1]]:
            copy = output.add_stream_from_template(stream)
            copy.metadata.clear()
            kept[stream.index] = copy
        output.metadata.update(metadata)
        try:
            for packet in source.demux([source.streams[index] for index in kept]):
                if packet.dts is None:
                    continue  # the empty packet that ends each stream
                packet.stream = kept[packet.stream.index]
                output.mux(packet)
        except (av.error.InvalidDataError, ValueError) as error:
            raise Refused(f"The video's streams do not fit into an mp4. {DAMAGED}") from error


def draw_poster(
    path: str, container: str, target: str, longest: int, limits: dict[str, Any]
) -> tuple[int, int]:
    """Write one frame, the key frame before the middle, as a JPEG; gives its size."""
    with opened(path, container) as source:
        stream = picture_stream(source, limits["max_video_pixels"])
        if source.duration:
            source.seek(source.duration // 2, backward=True)
        for packet in packets(source, stream):
            for frame in decoded(packet):
                width, height = fitted(frame.width, frame.height, longest, even=False)
                image = frame.to_image(width=width, height=height)  # type: ignore[no-untyped-call]
                image.save(target, format="JPEG", quality=85)
                return width, height
    raise Refused(f"The video has no frame that can be decoded. {DAMAGED}")
