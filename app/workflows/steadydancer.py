"""The rules of the SteadyDancer request that span fields, or hang on the media.

Sources: the model's own code (sizes, frames, guidance) and the node pack's (a cfg other than 1
without a negative pose fails inside the sampler).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from app.errors import FieldError
from app.wire import MediaFacts
from app.workflows.inputs import field_error, nearest, number, refused, shown
from app.workflows.manifest import FieldSpec, Scalar
from app.workflows.rules import Rules, Settled, frames_there

PRESETS: Mapping[str, tuple[int, int]] = {
    "480p": (480, 832),
    "576p": (576, 1024),
    "720p": (720, 1280),
}
"""Short and long side of the sizes that the model was trained on."""

MOST_PIXELS = 921_600
"""720 x 1280, the largest size that the model was trained on."""

PLAIN_FRAMES = 81
"""What the model makes in one go; more needs context windows."""

MODES: Mapping[str, Mapping[str, Any]] = {
    "fast": {
        "steps": (4, 4, 8),
        "cfg": (1.0, 1.0, 1.0),
        "shift": 5.0,
        "scheduler": ("dpm++_sde", "unipc", "euler", "lcm"),
    },
    "quality": {
        "steps": (30, 20, 50),
        "cfg": (5.0, 1.0, 10.0),
        "shift": 5.0,
        "scheduler": ("unipc", "dpm++", "dpm++_sde", "euler"),
    },
}
"""Default, least and greatest of steps and cfg, the shift, and the schedulers, default first."""

_ALIKE = 0.05
"""How far a preset's shape may be from a size that it is offered for."""

_OVERLAP = 16
"""Frames that two neighboring context windows share, as the graph has it."""


def windows(frames: int) -> int:
    """How many context windows cover that many frames."""
    if frames <= PLAIN_FRAMES:
        return 1
    return math.ceil((frames - PLAIN_FRAMES) / (PLAIN_FRAMES - _OVERLAP)) + 1


class SteadyDancerRules(Rules):
    """Sizes, lengths and modes of SteadyDancer."""

    def settle(self, given: Mapping[str, Any], media: Mapping[str, MediaFacts]) -> Settled:
        """Fill every field in. See `Rules.settle`."""
        faults: list[FieldError] = []
        values: dict[str, Any] = {
            name: given.get(name, spec.default) for name, spec in self.manifest.fields.items()
        }
        settled = Settled(values)
        faults += self._size(settled, given, media.get("reference_image"))
        faults += self._mode(settled, given)
        if values["pose_start"] > values["pose_end"]:
            faults.append(
                field_error(
                    "pose_start",
                    f"pose_start is {values['pose_start']:g} and pose_end is "
                    f"{values['pose_end']:g}; pose_start must not be greater than pose_end.",
                )
            )
        video = self.driving(media)
        faults += self._frames(settled, given, video)
        if faults:
            raise refused(faults)
        if video is not None:
            asked = "frames" in given or "duration_seconds" in given
            self.fit_frames(settled, video, asked=asked)
            self._audio(settled, given, video)
        self._warn(settled, given)
        for shorthand in ("preset", "orientation", "duration_seconds"):
            values.pop(shorthand)
        return settled

    # --- size ----------------------------------------------------------------------------------

    def _size(
        self, settled: Settled, given: Mapping[str, Any], reference: MediaFacts | None
    ) -> list[FieldError]:
        values = settled.values
        own = [name for name in ("width", "height") if name in given]
        orientation = given.get("orientation")
        if not own:
            if orientation is None:
                wide = reference is not None and reference.width > reference.height
                orientation = "landscape" if wide else "portrait"
            short, long = PRESETS[given.get("preset", "480p")]
            landscape = orientation == "landscape"
            values["width"], values["height"] = (long, short) if landscape else (short, long)
            return []
        if "preset" in given:
            return [
                field_error(
                    "preset",
                    f"preset is {shown(given['preset'])} beside {' and '.join(own)}; give either "
                    "preset (with orientation) or width and height.",
                )
            ]
        if len(own) == 1:
            missing = "height" if own == ["width"] else "width"
            return [
                field_error(
                    missing,
                    f"{missing} is missing beside {own[0]} {given[own[0]]}; give both, or a "
                    'preset such as "480p".',
                )
            ]
        width, height = given["width"], given["height"]
        if width * height > MOST_PIXELS:
            return [self._too_large(width, height)]
        taller = height >= width
        if orientation is not None and width != height and taller != (orientation == "portrait"):
            return [
                field_error(
                    "orientation",
                    f"orientation is {shown(orientation)}, but {width} x {height} is "
                    f"{'portrait' if taller else 'landscape'}; leave orientation out, or swap "
                    "width and height.",
                )
            ]
        if reference is not None and (reference.height - reference.width) * (height - width) < 0:
            settled.warnings.append(
                f"The reference image is {reference.width} x {reference.height} and the output "
                f"{width} x {height}: the other way round, so much of the picture is cropped."
            )
        return []

    def _too_large(self, width: int, height: int) -> FieldError:
        at_most = MOST_PIXELS // max(width, height) // 16 * 16
        long, short = ("width", "height") if width >= height else ("height", "width")
        return field_error(
            short,
            f"{width} x {height} is {number(width * height)} pixels; at most "
            f"{number(MOST_PIXELS)} are possible. With {long} {max(width, height)}, {short} may be "
            f"at most {at_most}.",
        )

    # --- length --------------------------------------------------------------------------------

    def _frames(
        self, settled: Settled, given: Mapping[str, Any], video: MediaFacts | None
    ) -> list[FieldError]:
        values, spec = settled.values, self.manifest.fields["frames"]
        longest = int(spec.max or PLAIN_FRAMES) if values["long"] else PLAIN_FRAMES
        fps = float(values["fps"])
        if "duration_seconds" in given:
            if "frames" in given:
                return [
                    field_error(
                        "duration_seconds",
                        f"duration_seconds is {given['duration_seconds']:g} beside frames "
                        f"{given['frames']}; give one of them.",
                    )
                ]
            name, exact = "duration_seconds", given["duration_seconds"] * fps
            frames = max(5, round((exact - 1) / 4) * 4 + 1)
        elif "frames" in given:
            name, frames = "frames", given["frames"]
        else:
            # Asked for nothing: one go, or with `long` all there is.
            there = None
            if values["long"] and video is not None:
                start = float(values["start_seconds"])
                there = frames_there(video, start_seconds=start, fps=fps)
            values["frames"] = longest if there is None else min(longest, max(there, PLAIN_FRAMES))
            self._to_grid(values, spec)
            return []
        values["frames"] = frames
        if frames <= longest:
            return []
        limit = (
            f"frames may be at most {longest}, which is {longest / fps:.2f} s at {fps:g} frames "
            "per second"
        )
        hint = "" if values["long"] else f"; with long: true up to {number(spec.max or 0)}"
        asked = shown(given[name])
        length = "" if name == "frames" else f", which is {frames} frames"
        return [field_error(name, f"{name} is {asked}{length}; {limit}{hint}.")]

    @staticmethod
    def _to_grid(values: dict[str, Any], spec: FieldSpec) -> None:
        values["frames"] = int(nearest(spec, values["frames"])[0])

    # --- mode ----------------------------------------------------------------------------------

    def _mode(self, settled: Settled, given: Mapping[str, Any]) -> list[FieldError]:
        values, faults = settled.values, []
        mode = values["mode"]
        table = MODES[mode]
        for name in ("steps", "cfg"):
            default, low, high = table[name]
            value = given.get(name, default)
            values[name] = value
            if low <= value <= high:
                continue
            allowed = f"{low:g}" if low == high else f"from {low:g} to {high:g}"
            reason = (
                ' A cfg other than 1 needs the negative pose, which mode "quality" wires.'
                if name == "cfg" and mode == "fast"
                else f" The nearest allowed value is {min(max(value, low), high):g}."
            )
            faults.append(
                field_error(
                    name,
                    f'{name} is {value:g}; in mode "{mode}" it must be {allowed}.{reason}',
                )
            )
        values["shift"] = given.get("shift", table["shift"])
        schedulers = table["scheduler"]
        values["scheduler"] = given.get("scheduler", schedulers[0])
        if values["scheduler"] not in schedulers:
            names = ", ".join(f'"{name}"' for name in schedulers)
            faults.append(
                field_error(
                    "scheduler",
                    f'scheduler is "{values["scheduler"]}"; in mode "{mode}" it must be one of '
                    f"{names}.",
                )
            )
        return faults

    # --- what should be said -------------------------------------------------------------------

    def _audio(self, settled: Settled, given: Mapping[str, Any], video: MediaFacts) -> None:
        if settled.values["keep_audio"] and not video.has_audio:
            settled.values["keep_audio"] = False
            if "keep_audio" in given:
                settled.warnings.append("keep_audio has no effect: the driving video has no audio.")

    def _warn(self, settled: Settled, given: Mapping[str, Any]) -> None:
        values, warn = settled.values, settled.warnings.append
        if values["mode"] == "quality":
            warn(
                'mode "quality" is experimental: the negative pose is the pose video, made '
                "smaller in the graph, not the authors' own augmentation; it takes about 20 times "
                'as long as mode "fast".'
            )
        default = self.manifest.fields["negative_prompt"].default
        if values["cfg"] == 1 and values["negative_prompt"] != default:
            warn("negative_prompt has no effect at cfg 1.")
        if values["cfg"] == 1 and values["mode"] == "quality":
            warn("At cfg 1 the negative pose has no effect.")
        if values["frames"] > PLAIN_FRAMES:
            count = windows(values["frames"])
            warn(
                f"{values['frames']} frames are sampled in {count} overlapping windows: that "
                f"takes about {count} times as long as {PLAIN_FRAMES} frames, and every window is "
                "pulled toward the reference image, so motion may jump between them."
            )
        elif values["long"] and "long" in given:
            warn(f"long has no effect at {values['frames']} frames: up to 81 need no windows.")
        if values["fps"] != 16:
            warn(f"fps is {values['fps']:g}; the model was made for 16.")
        self._warn_pose(settled, given)

    def _warn_pose(self, settled: Settled, given: Mapping[str, Any]) -> None:
        values, warn = settled.values, settled.warnings.append
        if values["driving_video_is_pose"]:
            for name in ("align_pose", "face_points"):
                if name in given and given[name] != self.manifest.fields[name].default:
                    warn(f"{name} has no effect: the driving video already shows the pose.")
        if values["pose_start"] == values["pose_end"]:
            warn("pose_start equals pose_end: the pose is applied at no step or one.")

    # --- for the graph, reruns and refusals ----------------------------------------------------

    def derived(self, values: Mapping[str, Any]) -> dict[str, Scalar]:
        """Height of the frame in which the negative pose stands at four fifths of its size."""
        return {"negative_pose_height": values["height"] * 5 // 4}

    def work(self, values: Mapping[str, Any]) -> float:
        """As `Rules.work`; windows overlap, and a cfg other than 1 takes a second pass."""
        count = windows(values["frames"])
        sampled = values["frames"] if count == 1 else count * PLAIN_FRAMES
        passes = 1 if values["cfg"] == 1 else 2
        return super().work({**values, "frames": sampled}) * passes

    def merge(self, request: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
        """As `Rules.merge`; an orientation alone swaps width and height."""
        merged = super().merge(request, overrides)
        alone = not {"width", "height", "preset"} & overrides.keys()
        wanted = overrides.get("orientation")
        if alone and wanted in {"portrait", "landscape"} and {"width", "height"} <= merged.keys():
            del merged["orientation"]
            sides = sorted((merged["width"], merged["height"]))
            merged["width"], merged["height"] = sides if wanted == "portrait" else sides[::-1]
        return merged

    def smaller(self, values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Fewer frames at the same size, then smaller sizes of about the same shape.

        Of the sizes the presets come first, which the model was trained on.
        """
        yield from super().smaller(values)
        width, height = values["width"], values["height"]
        spec = self.manifest.fields["width"]
        least = int(spec.min or 16)
        seen = {(width, height)}
        for short, long in sorted(PRESETS.values(), reverse=True):
            size = (short, long) if width < height else (long, short)
            alike = abs(width * size[1] - height * size[0]) <= _ALIKE * width * size[1]
            if alike and short < min(width, height):
                seen.add(size)
                yield {"width": size[0], "height": size[1]}
        for short in range(min(width, height) - 16, least - 1, -16):
            scale = short / min(width, height)
            size = (
                max(least, round(width * scale / 16) * 16),
                max(least, round(height * scale / 16) * 16),
            )
            if size not in seen:
                seen.add(size)
                yield {"width": size[0], "height": size[1]}
