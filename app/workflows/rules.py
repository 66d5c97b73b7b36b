"""What a workflow decides beyond single fields: defaults that hang on others or on the media."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.errors import FieldError
from app.wire import MediaFacts
from app.workflows.inputs import field_error, refused
from app.workflows.manifest import Manifest, Scalar
from app.workflows.values import MediaPlan

_ROUNDING = 1e-6
"""Frames; container durations are rounded to microseconds or coarser."""


@dataclass(slots=True)
class Settled:
    """Every field's value, and what the person should know about them."""

    values: dict[str, Any]
    warnings: list[str] = field(default_factory=list)


def length_seconds(facts: MediaFacts) -> float | None:
    """How long a video is: counted frames are trusted more than what the container states."""
    if facts.fps:
        return facts.frames / facts.fps
    return facts.duration_seconds


def frames_there(facts: MediaFacts, *, start_seconds: float, fps: float) -> int | None:
    """How many moments `start + k / fps` lie inside a video; None where its length is unknown."""
    length = length_seconds(facts)
    if length is None:
        return None
    return max(0, math.ceil((length - start_seconds) * fps - _ROUNDING))


def check_start(facts: MediaFacts, start_seconds: float) -> FieldError | None:
    """The fault of a start that lies behind the video's end."""
    length = length_seconds(facts)
    if length is None or start_seconds < length:
        return None
    return field_error(
        "start_seconds",
        f"start_seconds is {start_seconds:g}, but the driving video is {length:.2f} s long; "
        f"it must be from 0 to less than {length:.2f}.",
    )


class Rules:
    """Rules of a workflow that needs none of its own. Others derive from this.

    Fields are known by their names where they exist: `width`, `height`, `frames`, `fps`,
    `start_seconds`, `keep_audio`, `steps`.
    """

    def __init__(self, *, manifest: Manifest) -> None:
        self.manifest = manifest

    def settle(self, given: Mapping[str, Any], media: Mapping[str, MediaFacts]) -> Settled:
        """Fill every field in.

        Args:
            given: The checked fields of the request.
            media: What is known of the media; a file that is not in it is not judged.

        Raises:
            InvalidRequest: Fields contradict one another or the media.
        """
        fields = self.manifest.fields
        settled = Settled({name: given.get(name, spec.default) for name, spec in fields.items()})
        video = self.driving(media)
        if video is not None and "fps" in fields and "frames" in fields:
            self.fit_frames(settled, video, asked="frames" in given)
        return settled

    def fit_frames(self, settled: Settled, video: MediaFacts, *, asked: bool) -> None:
        """Take no more frames than the video has, and say so if more were asked for.

        Raises:
            InvalidRequest: The start lies outside the video, or too few frames are left.
        """
        values = settled.values
        start = float(values.get("start_seconds") or 0.0)
        if fault := check_start(video, start):
            raise refused([fault])
        there = frames_there(video, start_seconds=start, fps=float(values["fps"]))
        if there is None or there >= values["frames"]:
            return
        spec = self.manifest.fields["frames"]
        least, step = int(spec.min or 1), spec.step or 1
        if there < least:
            raise refused(
                [
                    field_error(
                        self.video_field(),
                        f"The driving video has {there} usable frames from {start:g} s on at "
                        f"{values['fps']:g} frames per second; at least {least} are needed. "
                        "Send a longer video or start earlier.",
                    )
                ]
            )
        usable = least + (there - least) // step * step
        if asked:
            settled.warnings.append(
                f"The driving video has {there} frames from {start:g} s on at "
                f"{values['fps']:g} frames per second; the output has {usable} frames instead "
                f"of {values['frames']}."
            )
        values["frames"] = usable

    def derived(self, values: Mapping[str, Any]) -> dict[str, Scalar]:
        """Values that nodes need and nobody chooses."""
        del values
        return {}

    def work(self, values: Mapping[str, Any]) -> float:
        """How much a run has to compute, in steps times pixels; for times learned elsewhere."""
        pixels = float(values.get("width") or 1) * float(values.get("height") or 1)
        return pixels * float(values.get("frames") or 1) * max(1, int(values.get("steps") or 1))

    def merge(self, request: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
        """An earlier resolved request with some fields changed, not yet checked.

        A field that is set takes the place of those it supersedes (a preset that of width and
        height), and null goes back to the default.
        """
        merged = dict(request)
        for name in overrides:
            spec = self.manifest.fields.get(name)
            for other in spec.supersedes if spec else ():
                if other not in overrides:
                    merged.pop(other, None)
        merged.update(overrides)
        return {name: value for name, value in merged.items() if value is not None}

    def smaller(self, values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Request changes that need less memory, the nearest first. Each alone is legal."""
        spec = self.manifest.fields.get("frames")
        if spec is not None:
            for frames in range(
                values["frames"] - (spec.step or 1), int(spec.min or 1) - 1, -(spec.step or 1)
            ):
                yield {"frames": frames}

    # --- names -------------------------------------------------------------------------------

    def video_field(self) -> str:
        """The media field of the first video."""
        return next((n for n, m in self.manifest.media.items() if m.kind == "video"), "")

    def driving(self, media: Mapping[str, MediaFacts]) -> MediaFacts | None:
        """What is known of the driving video."""
        return media.get(self.video_field())

    def media_plan(self, values: Mapping[str, Any]) -> dict[str, MediaPlan]:
        """What preparation must do to each file."""
        width, height = values.get("width"), values.get("height")
        return {
            name: MediaPlan(kind="image", width=width, height=height)
            if spec.kind == "image"
            else MediaPlan(
                kind="video",
                start_seconds=float(values.get("start_seconds") or 0.0),
                fps=None if values.get("fps") is None else float(values["fps"]),
                frames=values.get("frames"),
                keep_audio=bool(values.get("keep_audio")),
                width=width,
                height=height,
            )
            for name, spec in self.manifest.media.items()
        }
