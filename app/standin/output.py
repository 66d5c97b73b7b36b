"""What the output nodes leave on disk, and what they say about it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.standin import clips, video
from app.standin.clips import Clip, Sound
from app.standin.nodes import Call, film

if TYPE_CHECKING:
    from PIL.Image import Image

Report = Callable[[int, int], None]
"""Told which frame, from 1, of how many."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What an output node told its clients, and the video file that it named, if any."""

    ui: dict[str, Any]
    path: Path | None


class Saver:
    """Writes pictures and videos under ComfyUI's own names."""

    def __init__(self, *, directory: Path, work: bool, pad_to: int) -> None:
        """Choose how to write.

        Args:
            directory: Holds the `output` and `temp` folders.
            work: Whether frames are made; otherwise one file for each shape is made and copied.
            pad_to: Size in bytes every video is filled up to; 0 leaves it.
        """
        self._directory = directory
        self._work = work
        self._pad_to = pad_to

    def save(self, call: Call, graph: Mapping[str, Any], report: Report) -> Saved:
        """Run an output node.

        Args:
            call: The node.
            graph: The whole prompt, which goes into the files.
            report: Told of each frame written, where the real node tells; it may raise to stop.
        """
        match call.kind:
            case "SaveVideo":
                return self._save_video(call, graph)
            case "VHS_VideoCombine":
                return self._combine(call, graph, report)
            case _:
                return self._save_images(call)

    def _place(self, prefix: str, kind: str = "output") -> tuple[Path, str, str]:
        subfolder, _, name = prefix.rpartition("/")
        base = (self._directory / kind).resolve()
        folder = (base / subfolder).resolve()
        if not folder.is_relative_to(base):
            raise ValueError("Saving image outside the output folder is not allowed.")
        folder.mkdir(parents=True, exist_ok=True)
        return folder, name, subfolder

    def _save_video(self, call: Call, graph: Mapping[str, Any]) -> Saved:
        folder, name, subfolder = self._place(str(call.values["filename_prefix"]))
        path = folder / f"{name}_{_next(folder, name):05}_.mp4"
        shown = film(call.values["video"])
        self._write(shown.clip, path, rate=shown.rate, sound=shown.sound, prompt=graph)
        images = [{"filename": path.name, "subfolder": subfolder, "type": "output"}]
        return Saved({"images": images, "animated": [True]}, path)

    def _combine(self, call: Call, graph: Mapping[str, Any], report: Report) -> Saved:
        value = call.values
        kind = "output" if value.get("save_output", True) else "temp"
        folder, name, subfolder = self._place(str(value["filename_prefix"]), kind)
        stem = f"{name}_{_next(folder, name):05}"
        clip: Clip = value["images"]
        sound: Sound | None = value.get("audio")
        path = folder / f"{stem}.mp4"
        rate = Fraction(float(value["frame_rate"])).limit_denominator(1001)
        if self._work:
            video.picture(clip, folder / f"{stem}.png", graph)
            clip = clip.mapped(_telling(report, clip.count))
        self._write(clip, path, rate=rate, crf=int(value.get("crf", 19)))
        if sound is not None:
            # As VideoHelperSuite does it: the silent file stays, the one with sound is told.
            silent, path = path, folder / f"{stem}-audio.mp4"
            video.with_sound(silent, path, sound)
            video.pad(path, self._pad_to)
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
        for number, image in enumerate(clip.frames(), start=_next(folder, name)):
            filename = f"{name}_{number:05}_.png"
            image.save(folder / filename, compress_level=1)
            images.append({"filename": filename, "subfolder": subfolder, "type": kind})
        return Saved({"images": images}, None)

    def _write(
        self,
        clip: Clip,
        path: Path,
        *,
        rate: Fraction,
        crf: int = 23,
        sound: Sound | None = None,
        prompt: Mapping[str, Any] | None = None,
    ) -> None:
        if self._work:
            video.encode(clip, path, rate=rate, crf=crf, sound=sound, prompt=prompt)
        else:
            shutil.copyfile(self._prepared(clip, rate), path)
        video.pad(path, self._pad_to)

    def _prepared(self, clip: Clip, rate: Fraction) -> Path:
        """A video of this shape, made once and kept."""
        shape = f"{clip.width}x{clip.height}x{clip.count}@{float(rate):g}.mp4"
        made = self._directory / "prepared" / shape
        if not made.exists():
            made.parent.mkdir(parents=True, exist_ok=True)
            blank = clips.plain(clip.width, clip.height, clip.count, 0x204060)
            unfinished = made.with_name(f"{os.getpid()}-{shape}")
            video.encode(blank, unfinished, rate=rate)
            unfinished.replace(made)  # whole or not at all, though the process is killed
        return made


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
