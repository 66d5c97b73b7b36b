"""What the output nodes leave on disk, and what they say about it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.standin import video
from app.standin.nodes import Call, film
from app.standin.video import Clip, Sound

if TYPE_CHECKING:
    from PIL.Image import Image

Report = Callable[[int, int], None]
"""Told which frame, from 1, of how many."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What an output node told its clients, and its video file where it wrote one."""

    ui: dict[str, Any]
    path: Path | None


class Saver:
    """Writes videos under ComfyUI's own names.

    Args:
        directory: Holds the `output` and `temp` folders.
        work: Whether frames are really made; otherwise one file for each shape is made and copied.
        pad_to: Size in bytes every video is filled up to; 0 leaves it.
    """

    def __init__(self, *, directory: Path, work: bool, pad_to: int) -> None:
        self._directory = directory
        self._work = work
        self._pad_to = pad_to

    def save(self, call: Call, report: Report) -> Saved:
        """Run an output node.

        Args:
            call: The node.
            report: Told of each frame written, where the real node tells; it may raise to stop.
        """
        match call.kind:
            case "SaveVideo":
                return self._save_video(call)
            case "VHS_VideoCombine":
                return self._combine(call, report)
            case _:
                return self._save_images(call)

    def _place(self, prefix: str, kind: str = "output") -> tuple[Path, str, str]:
        subfolder, _, name = prefix.rpartition("/")
        folder = self._directory / kind / subfolder
        folder.mkdir(parents=True, exist_ok=True)
        return folder, name, subfolder

    def _save_video(self, call: Call) -> Saved:
        folder, name, subfolder = self._place(str(call.values["filename_prefix"]))
        filename = f"{name}_{_next(folder, name):05}_.mp4"
        shown = film(call.values["video"])
        self._write(shown.clip, folder / filename, shown.rate, shown.sound)
        images = [{"filename": filename, "subfolder": subfolder, "type": "output"}]
        return Saved({"images": images, "animated": [True]}, folder / filename)

    def _combine(self, call: Call, report: Report) -> Saved:
        value = call.values
        kind = "output" if value.get("save_output", True) else "temp"
        folder, name, subfolder = self._place(str(value["filename_prefix"]), kind)
        stem = f"{name}_{_next(folder, name):05}"
        clip: Clip = value["images"]
        sound: Sound | None = value.get("audio")
        silent = folder / f"{stem}.mp4"
        path = folder / f"{stem}-audio.mp4" if sound is not None else silent
        rate = Fraction(float(value["frame_rate"])).limit_denominator(1001)
        video.picture(clip, folder / f"{stem}.png")
        self._write(clip, path, rate, sound, report)
        if path != silent:
            shutil.copyfile(path, silent)
        entry = {
            "filename": path.name,
            "subfolder": subfolder,
            "type": kind,
            "format": str(value["format"]),
            "frame_rate": float(value["frame_rate"]),
            "workflow": f"{stem}.png",
            "fullpath": str(path),
        }
        return Saved({"gifs": [entry]}, path)

    def _save_images(self, call: Call) -> Saved:
        clip = next((v for v in call.values.values() if isinstance(v, Clip)), None)
        if clip is None:
            return Saved({}, None)
        kind = "temp" if call.kind == "PreviewImage" else "output"
        prefix = str(call.values.get("filename_prefix", "ComfyUI_temp"))
        folder, name, subfolder = self._place(prefix, kind)
        images = []
        for image in clip.frames():
            filename = f"{name}_{_next(folder, name):05}_.png"
            image.save(folder / filename)
            images.append({"filename": filename, "subfolder": subfolder, "type": kind})
        return Saved({"images": images}, None)

    def _write(
        self,
        clip: Clip,
        path: Path,
        rate: Fraction,
        sound: Sound | None,
        report: Report | None = None,
    ) -> None:
        if self._work:
            if report is not None:
                clip = clip.mapped(_telling(report, clip.count))
            video.encode(clip, path, rate=rate, sound=sound, pad_to=self._pad_to)
            return
        shape = f"{clip.width}x{clip.height}x{clip.count}@{float(rate):g}"
        made = self._directory / "prebuilt" / f"{shape}{'+sound' if sound else ''}.mp4"
        if not made.exists():
            made.parent.mkdir(parents=True, exist_ok=True)
            blank = video.plain(clip.width, clip.height, clip.count, 0x204060)
            video.encode(blank, made, rate=rate, sound=sound, pad_to=self._pad_to)
        shutil.copyfile(made, path)


def _telling(report: Report, count: int) -> Callable[[int, Image], Image]:
    def told(index: int, image: Image) -> Image:
        report(index + 1, count)
        return image

    return told


def _next(folder: Path, name: str) -> int:
    pattern = re.compile(re.escape(name) + r"_(\d+)\D.*", re.DOTALL)
    numbers = [
        int(found[1]) for path in folder.iterdir() if (found := pattern.fullmatch(path.name))
    ]
    return max(numbers, default=0) + 1
