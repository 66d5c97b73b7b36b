"""How much a media file may ask of the gateway."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """Bounds on what is accepted and on what looking at it may cost.

    Attributes:
        max_bytes: Size of the file.
        max_image_pixels: Width times height of an image, read from its header.
        max_video_pixels: Width times height of a video, read from its header and enforced again
            by the decoder for what the stream itself says.
        max_duration_seconds: Length of a video.
        max_frames: Number of frames of a video.
        min_side: Shorter side of either, in pixels.
        decode_frames: So many frames are really decoded when a video is looked at; those after
            them are counted as they are found in the file.
        probe_seconds: Time to look at one file.
        prepare_seconds: Time to convert one file.
        memory_bytes: Address space of the process that does either.
        output_bytes: Size of any file that this process writes.
    """

    max_bytes: int = 1 << 30
    max_image_pixels: int = 50_000_000
    max_video_pixels: int = 4096 * 2304
    max_duration_seconds: float = 600.0
    max_frames: int = 36_000
    min_side: int = 16
    decode_frames: int = 900
    probe_seconds: float = 30.0
    prepare_seconds: float = 180.0
    memory_bytes: int = 2 << 30
    output_bytes: int = 2 << 30
