"""What node classes do, as far as a picture and a length can be had without models.

Values that flow along the links are clips, sounds, numbers or, for everything that only a model
could make, a `Made` that remembers the clip it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

from app.standin import clips
from app.standin.clips import Clip, Fit, Sound
from app.standin.failures import OUT_OF_MEMORY, NodeFailed
from app.standin.inputs import locate
from app.standin.reading import Choice, Source, load

BLANK = 0x202020
LATENT_FRAMES = 4
"""Frames of a video that share a latent one, after the first."""


@dataclass(frozen=True, slots=True)
class Made:
    """What a model would have made, known by the frames it stands for.

    Attributes:
        clip: The frames.
        pose: The skeletons that shall move them, once they are joined.
    """

    clip: Clip | None = None
    pose: Clip | None = None


@dataclass(frozen=True, slots=True)
class Film:
    """A VIDEO value: frames, rate and sound."""

    clip: Clip
    rate: Fraction
    sound: Sound | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One node about to run.

    Attributes:
        node_id: Its id.
        kind: Its class.
        values: Its inputs, links resolved.
        outputs: The types it gives, in order.
        directory: Where files are.
    """

    node_id: str
    kind: str
    values: Mapping[str, Any]
    outputs: Sequence[str]
    directory: Path

    def file(self, name: str) -> Path:
        """The input file that one of its inputs names."""
        return locate(self.directory, str(self.values[name]))


def run(call: Call) -> tuple[Any, ...]:
    """What a node gives, one value for each of its outputs."""
    known = _KNOWN.get(call.kind)
    if known is not None:
        return known(call)
    return _guess(call)


def _load_image(call: Call) -> tuple[Any, ...]:
    return (clips.still(call.file("image")), Made())


def _load_video(call: Call) -> tuple[Any, ...]:
    # As recorded, a broken file shows only when its frames are asked for.
    return (call.file("file"),)


def film(value: Any) -> Film:  # noqa: ANN401 - a VIDEO value
    """A VIDEO value with its frames at hand."""
    if isinstance(value, Path):
        source = load(value)
        return Film(source.clip, source.rate, source.sound)
    return cast("Film", value)


def _vhs_load(call: Call) -> tuple[Any, ...]:
    value = call.values
    choice = Choice(
        rate=float(value.get("force_rate") or 0),
        cap=int(value.get("frame_load_cap") or 0),
        skip=int(value.get("skip_first_frames") or 0),
        nth=int(value.get("select_every_nth") or 1),
        wan=value.get("format") == "Wan",
    )
    source = load(call.file("video"), choice)
    clip = source.clip
    width, height = int(value.get("custom_width") or 0), int(value.get("custom_height") or 0)
    width = width or (0 if height else clip.width)
    if not (width and height):
        height = height or round(clip.height * width / clip.width)
        width = width or round(clip.width * height / clip.height)
    clip = clip.sized(_eights(width), _eights(height), how="crop")
    return (clip, clip.count, source.sound, _info(source))


def _eights(side: int) -> int:
    """VHS_LoadVideo rounds sides to a multiple of 8."""
    return max(8, int(side / 8 + 0.5) * 8)


def _info(source: Source) -> dict[str, Any]:
    return {
        "loaded_fps": float(source.rate),
        "loaded_frame_count": source.clip.count,
        "loaded_duration": source.clip.count / float(source.rate),
        "loaded_width": source.clip.width,
        "loaded_height": source.clip.height,
    }


def _components(call: Call) -> tuple[Any, ...]:
    shown = film(call.values["video"])
    return (shown.clip, shown.sound, float(shown.rate), 8)


def _part(call: Call) -> tuple[Any, ...]:
    value = call.values
    start = int(value.get("batch_index", value.get("start_index", 0)))
    length = int(value.get("length", value.get("num_frames", 1)))
    clip: Clip = value["image"] if "image" in value else value["images"]
    return (clip.part(start, length), Made())


def _scale(call: Call) -> tuple[Any, ...]:
    value = call.values
    how: Fit = "crop" if value["crop"] == "center" else "stretch"
    clip: Clip = value["image"]
    return (clip.sized(int(value["width"]), int(value["height"]), how=how),)


def _resize(call: Call) -> tuple[Any, ...]:
    value = call.values
    clip: Clip = value["image"]
    step = max(1, int(value["divisible_by"]))
    width = (int(value["width"]) or clip.width) // step * step
    height = (int(value["height"]) or clip.height) // step * step
    ways: Mapping[str, Fit] = {"crop": "crop", "resize": "inside", "total_pixels": "inside"}
    wish = str(value["keep_proportion"])
    how: Fit = "pad" if wish.startswith(("pad", "pillar")) else ways.get(wish, "stretch")
    clip = clip.sized(width, height, how=how)
    return (clip, clip.width, clip.height, Made())


def _batch(call: Call) -> tuple[Any, ...]:
    first: Clip = call.values["image1"]
    return (first.then(call.values["image2"]),)


def _create(call: Call) -> tuple[Any, ...]:
    rate = Fraction(float(call.values["fps"])).limit_denominator(1001)
    return (Film(call.values["images"], rate, call.values.get("audio")),)


def _size(call: Call) -> tuple[Any, ...]:
    clip: Clip = call.values["image"]
    return (clip, clip.width, clip.height, clip.count)


def _empty(call: Call) -> tuple[Any, ...]:
    value = call.values
    sides = int(value["width"]), int(value["height"])
    return (clips.plain(*sides, int(value["batch_size"]), int(value["color"])),)


def _raise(call: Call) -> tuple[Any, ...]:
    if call.values["kind"] == "OutOfMemory":
        raise NodeFailed(
            OUT_OF_MEMORY,
            "CUDA out of memory. Tried to allocate 2.00 GiB. (simulated by probe node)",
        )
    raise NodeFailed(str(call.values["kind"]), str(call.values["message"]))


def _pass_image(call: Call) -> tuple[Any, ...]:
    return (call.values["image"],)


def _pose(call: Call) -> tuple[Any, ...]:
    images: Clip = call.values["images"]
    sides = int(call.values["width"]), int(call.values["height"])
    drawn = clips.skeletons(images.sized(*sides, how="crop"))
    return tuple(drawn if kind == "IMAGE" else Made(drawn) for kind in call.outputs)


def _start(call: Call) -> tuple[Any, ...]:
    """The first-frame latents: the reference as long as the video shall be."""
    value = call.values
    count = (int(value["num_frames"]) - 1) // LATENT_FRAMES * LATENT_FRAMES + 1
    sides = int(value["width"]), int(value["height"])
    start: Clip | None = value.get("start_image")
    still = start.sized(*sides, how="crop") if start else clips.plain(*sides, 1, BLANK)
    return (Made(still.repeated(count)),)


def _join(call: Call) -> tuple[Any, ...]:
    embeds: Made = call.values["embeds"]
    poses: Made = call.values["pose_latents_positive"]
    return (Made(embeds.clip, poses.clip),)


def _sample(call: Call) -> tuple[Any, ...]:
    embeds: Made = call.values["image_embeds"]
    if embeds.clip is None or embeds.pose is None:
        return (embeds, Made())
    for wanted, given, axis in (
        (_latents(embeds.clip), _latents(embeds.pose), 2),
        (embeds.clip.height // 8, embeds.pose.height // 8, 3),
        (embeds.clip.width // 8, embeds.pose.width // 8, 4),
    ):
        if wanted != given:
            raise RuntimeError(
                f"The size of tensor a ({wanted}) must match the size of tensor b ({given}) "
                f"at non-singleton dimension {axis}"
            )
    return (Made(clips.danced(embeds.pose, embeds.clip)), Made())


def _latents(clip: Clip) -> int:
    return (clip.count - 1) // LATENT_FRAMES + 1


def _first_clip(values: Mapping[str, Any]) -> Clip | None:
    for value in values.values():
        if isinstance(value, Clip):
            return value
        if isinstance(value, Made) and value.clip is not None:
            return value.clip
    return None


def _guess(call: Call) -> tuple[Any, ...]:
    """A node of no known meaning passes on the first frames it was given."""
    clip = _first_clip(call.values)
    given: list[Any] = []
    for kind in call.outputs:
        if kind == "IMAGE":
            given.append(clip or clips.plain(64, 64, 1, BLANK))
        elif kind == "AUDIO":
            given.append(next((v for v in call.values.values() if isinstance(v, Sound)), None))
        elif kind in {"INT", "FLOAT"}:
            given.append(0)
        else:
            given.append(Made(clip))
    return tuple(given)


_KNOWN: Mapping[str, Callable[[Call], tuple[Any, ...]]] = {
    "LoadImage": _load_image,
    "LoadVideo": _load_video,
    "VHS_LoadVideo": _vhs_load,
    "GetVideoComponents": _components,
    "ImageFromBatch": _part,
    "GetImageRangeFromBatch": _part,
    "ImageScale": _scale,
    "ImageResizeKJv2": _resize,
    "ImageBatch": _batch,
    "CreateVideo": _create,
    "GetImageSizeAndCount": _size,
    "EmptyImage": _empty,
    "ProbeSlow": _pass_image,
    "ProbeRaise": _raise,
    "PoseDetectionOneToAllAnimation": _pose,
    "WanVideoImageToVideoEncode": _start,
    "WanVideoAddSteadyDancerEmbeds": _join,
    "WanVideoSampler": _sample,
}
