"""Values that leave this room: what a request was resolved to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides how much memory a run takes; the key under which peaks are learned.

    Attributes:
        workflow: Name of the workflow.
        variant: The operator's variant, with the fields that change the need and, for an attempt
            with low-memory settings, `low`.
        width: Width of the output in pixels.
        height: Height of the output in pixels.
        frames: Frames of the output.
    """

    workflow: str
    variant: str
    width: int
    height: int
    frames: int

    @property
    def key(self) -> str:
        """The shape as one text, such as `steadydancer/q4_k_m+fast/480x832x81`."""
        return f"{self.workflow}/{self.variant}/{self.width}x{self.height}x{self.frames}"


@dataclass(frozen=True, slots=True)
class MediaPlan:
    """What preparation must do to one media file before the engine gets it.

    Rotation is always applied. An image is re-encoded as PNG only where the engine could not read
    it or it is turned. A video is cut and brought to a constant rate, so that frame k of the
    prepared file shows the moment `start_seconds + k / fps` of the original.

    Attributes:
        kind: `image` or `video`.
        start_seconds: Where the cut begins.
        fps: Rate of the prepared video.
        frames: Exact number of frames of the prepared video; None for all there are.
        keep_audio: Whether the audio is kept, cut to the same range.
        width: Width that the engine will crop and scale to. Preparation leaves scaling to the
            engine; it may scale down to a picture that still covers width and height.
        height: The same for the height.
    """

    kind: Literal["image", "video"]
    start_seconds: float = 0.0
    fps: float | None = None
    frames: int | None = None
    keep_audio: bool = False
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the stored video must be, so that a broken one is noticed. None is not known."""

    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """A request with every choice made.

    Attributes:
        request: Every field with its value, JSON-able, without the media. Resolving it again
            gives the same.
        warnings: What the person should know: settings without effect, fewer frames than asked.
        shape: Key for memory estimates.
        steps: Sampler steps; 0 where the workflow has none.
        media_plan: Media field to what preparation must do.
        expects: What the output video must be.
    """

    request: dict[str, Any]
    warnings: tuple[str, ...]
    shape: Shape
    steps: int
    media_plan: Mapping[str, MediaPlan] = field(default_factory=dict)
    expects: Expectation = Expectation()


@dataclass(frozen=True, slots=True)
class NodeShare:
    """A node's part in the progress of a run.

    Attributes:
        title: The node's title.
        phase: Phase of the job while it runs.
        share: Part of the whole run, between 0 and 1; the shares of a graph add up to 1.
    """

    title: str
    phase: Literal["starting", "loading", "sampling", "decoding", "encoding"]
    share: float


@dataclass(frozen=True, slots=True)
class Fit:
    """Settings near the ones asked for that fit a card.

    Attributes:
        changes: Request fields to change; empty where the operator must act.
        options: Operator options to change; empty where the person can act.
        need_mib: What the run would then need.
        detail: The change in words.
    """

    changes: Mapping[str, Any]
    options: Mapping[str, Any]
    need_mib: int
    detail: str
