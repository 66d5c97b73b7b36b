"""What node classes do, as far as a picture and a length can be had without models.

Values that flow along the links are clips, sounds, numbers or, for everything that only a model
could make, a `Made` that remembers the clip it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

from app.standin import video
from app.standin.failures import OUT_OF_MEMORY, NodeFailed
from app.standin.video import Clip, Sound, Source


@dataclass(frozen=True, slots=True)
class Made:
    """What a model would have made, known by the frames it stands for."""

    clip: Clip | None = None


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
        described: Its entry in the object info.
        directory: Where files are.
        upstream: Finds the outputs of the nearest node above of one of some classes.
    """

    node_id: str
    kind: str
    values: Mapping[str, Any]
    described: Mapping[str, Any]
    directory: Path
    upstream: Callable[..., tuple[Any, ...] | None]

    def file(self, name: str) -> Path:
        """An input file by the name a graph uses."""
        text = str(self.values[name])
        for ending in ("input", "output", "temp"):
            if text.endswith(f" [{ending}]"):
                return self.directory / ending / text.removesuffix(f" [{ending}]")
        return self.directory / "input" / text


def run(call: Call) -> tuple[Any, ...]:
    """What a node gives, one value for each of its outputs."""
    known = _KNOWN.get(call.kind)
    if known is not None:
        return known(call)
    return _guess(call)


def _load_image(call: Call) -> tuple[Any, ...]:
    return (video.still(call.file("image")), Made())


def _load_video(call: Call) -> tuple[Any, ...]:
    # As recorded, a broken file shows only when its frames are asked for.
    return (call.file("file"),)


def film(value: Any) -> Film:  # noqa: ANN401 - a VIDEO value
    """A VIDEO value with its frames at hand."""
    if isinstance(value, Path):
        source = video.load(value)
        return Film(source.clip, source.rate, source.sound)
    return cast("Film", value)


def _vhs_load(call: Call) -> tuple[Any, ...]:
    value = call.values
    source = video.load(
        call.file("video"),
        rate=float(value.get("force_rate") or 0),
        cap=int(value.get("frame_load_cap") or 0),
        skip=int(value.get("skip_first_frames") or 0),
        nth=int(value.get("select_every_nth") or 1),
        wan=value.get("format") == "Wan",
    )
    width, height = int(value.get("custom_width") or 0), int(value.get("custom_height") or 0)
    clip = source.clip.sized(width, height, crop=True)
    return (clip, clip.count, source.sound, _info(source))


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
    crop = value.get("crop") == "center" or value.get("keep_proportion") == "crop"
    clip: Clip = value["image"]
    width, height = int(value.get("width") or 0), int(value.get("height") or 0)
    step = int(value.get("divisible_by") or 1)
    if step > 1:
        width, height = width // step * step, height // step * step
    clip = clip.sized(width, height, crop=crop)
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
    return (
        video.plain(
            int(value["width"]), int(value["height"]), int(value["batch_size"]), int(value["color"])
        ),
    )


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
    from PIL import ImageOps  # noqa: PLC0415

    clip: Clip = call.values["images"]
    drawn = clip.mapped(
        lambda _, image: ImageOps.posterize(ImageOps.invert(image.convert("L")).convert("RGB"), 2)
    )
    drawn = drawn.sized(int(call.values["width"]), int(call.values["height"]), crop=True)
    outputs = list(call.described["output"])
    return tuple(drawn if kind == "IMAGE" else Made(drawn) for kind in outputs)


def _encode_plan(call: Call) -> tuple[Any, ...]:
    value = call.values
    frames = (int(value["num_frames"]) - 1) // 4 * 4 + 1
    return (Made(video.plain(int(value["width"]), int(value["height"]), frames, 0x202020)),)


def _sample(call: Call) -> tuple[Any, ...]:
    plan = _first_clip(call.values)
    driving = call.upstream("VHS_LoadVideo", "GetVideoComponents", "EmptyImage")
    reference = call.upstream("LoadImage")
    if plan is None:
        plan = driving[0] if driving else video.plain(64, 64, 5, 0x202020)
    clip = plan
    if driving is not None:
        clip = driving[0].sized(plan.width, plan.height, crop=True).repeated(plan.count)
    return (Made(_watermarked(clip, reference[0] if reference else None)), Made())


def _watermarked(clip: Clip, reference: Clip | None) -> Clip:
    from PIL import Image as Pillow  # noqa: PLC0415
    from PIL import ImageDraw  # noqa: PLC0415

    still = None
    if reference is not None:
        still = next(reference.sized(clip.width, clip.height, crop=True).frames())

    def change(index: int, image: Any) -> Any:  # noqa: ANN401 - Pillow images
        made = Pillow.blend(image, still, 0.5) if still is not None else image.copy()
        ImageDraw.Draw(made).text((2, 2), f"stand-in {index}", fill=(255, 255, 255))
        return made

    return clip.mapped(change)


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
    for kind in call.described.get("output", []):
        if kind == "IMAGE":
            given.append(clip or video.plain(64, 64, 1, 0x202020))
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
    "ImageResizeKJv2": _scale,
    "ImageBatch": _batch,
    "CreateVideo": _create,
    "GetImageSizeAndCount": _size,
    "EmptyImage": _empty,
    "ProbeSlow": _pass_image,
    "ProbeRaise": _raise,
    "PoseDetectionOneToAllAnimation": _pose,
    "WanVideoImageToVideoEncode": _encode_plan,
    "WanVideoSampler": _sample,
}
