# ruff: noqa: INP001 - a script of its own
"""Draw the sample photo and the sample dance: a figure of lines, and a tone to its steps.

Run `python docs/samples/make_samples.py` to write `photo.jpg` and `dance.mp4` beside this file.
"""

from __future__ import annotations

import math
from array import array
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
WIDTH, HEIGHT = 480, 832
FPS, SECONDS = 24, 6
BEAT = 2.0
"""Steps per second."""

RATE = 48_000
PIECE = 960

Point = tuple[float, float]


def limb(start: Point, angle: float, length: float) -> Point:
    """Where a limb ends that hangs down at angle 0 and points to the right at a quarter turn."""
    return start[0] + math.sin(angle) * length, start[1] + math.cos(angle) * length


def figure(
    draw: ImageDraw.ImageDraw, *, time: float, skin: str, shirt: str, trousers: str, scale: float
) -> None:
    """Draw the dancer as it is at `time` seconds."""
    beat = 2 * math.pi * BEAT * time
    sway, bounce = math.sin(beat / 2), abs(math.sin(beat / 2))
    hips = (WIDTH / 2 + 45 * sway * scale, HEIGHT * 0.56 - 18 * bounce * scale)
    neck = limb(hips, math.pi - 0.15 * sway, 170 * scale)
    head = limb(neck, math.pi - 0.25 * sway, 58 * scale)
    wide = int(30 * scale)
    for side in (-1, 1):
        knee = limb(hips, side * 0.22 + 0.35 * sway * side, 135 * scale)
        foot = limb(knee, side * 0.05 - 0.45 * bounce * side, 135 * scale)
        stroke(draw, [(hips[0] + side * 22 * scale, hips[1]), knee, foot], trousers, wide)
        shoulder = (neck[0] + side * 48 * scale, neck[1] + 14 * scale)
        elbow = limb(shoulder, side * (1.3 + 0.9 * math.sin(beat / 2 + side)), 92 * scale)
        hand = limb(elbow, side * (2.0 + 0.8 * math.sin(beat + side)), 88 * scale)
        stroke(draw, [shoulder, elbow], shirt, wide)
        stroke(draw, [elbow, hand], skin, wide - 6)
    draw.polygon(
        [
            (neck[0] - 58 * scale, neck[1]),
            (neck[0] + 58 * scale, neck[1]),
            (hips[0] + 42 * scale, hips[1] + 16 * scale),
            (hips[0] - 42 * scale, hips[1] + 16 * scale),
        ],
        fill=shirt,
    )
    radius = 46 * scale
    draw.ellipse(
        (head[0] - radius, head[1] - radius, head[0] + radius, head[1] + radius), fill=skin
    )
    for side in (-1, 1):
        x, y = head[0] + side * 16 * scale, head[1] - 6 * scale
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill="#222222")
    mouth = (head[0] - 18, head[1] + 6, head[0] + 18, head[1] + 30)
    draw.arc(mouth, 20, 160, fill="#222222", width=4)


def stroke(draw: ImageDraw.ImageDraw, points: list[Point], color: str, width: int) -> None:
    """A thick line with round ends and joints."""
    draw.line(points, fill=color, width=width, joint="curve")
    for x, y in points:
        draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=color)


def scene(sky: str, floor: str) -> Image.Image:
    """An empty stage."""
    image = Image.new("RGB", (WIDTH, HEIGHT), sky)
    ImageDraw.Draw(image).rectangle((0, HEIGHT * 0.8, WIDTH, HEIGHT), fill=floor)
    return image


def dance_frame(number: int) -> Image.Image:
    """One frame of the dance."""
    image = scene("#33415c", "#5c677d")
    draw = ImageDraw.Draw(image)
    figure(draw, time=number / FPS, skin="#d9a066", shirt="#d62828", trousers="#14213d", scale=0.85)
    return image


def tone() -> Iterator[av.AudioFrame]:
    """A note for each step, going up and down."""
    notes = (261.63, 329.63, 392.0, 329.63)
    for begin in range(0, SECONDS * RATE, PIECE):
        samples = array("f")
        for sample in range(begin, begin + PIECE):
            time = sample / RATE
            step = time * BEAT
            volume = 0.25 * math.exp(-4 * (step % 1)) * min(1.0, (step % 1) * 50)
            samples.append(volume * math.sin(2 * math.pi * notes[int(step) % 4] * time))
        frame = av.AudioFrame(format="fltp", layout="mono", samples=PIECE)
        frame.planes[0].update(samples.tobytes())
        frame.sample_rate, frame.pts, frame.time_base = RATE, begin, Fraction(1, RATE)
        yield frame


def write_dance(path: Path) -> None:
    """Write the driving video: portrait H.264 with AAC sound."""
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as output:
        video = output.add_stream("libx264", rate=FPS, options={"crf": "24", "preset": "slow"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = output.add_stream("aac", rate=RATE)
        audio.bit_rate = 48_000
        for number in range(SECONDS * FPS):
            output.mux(video.encode(av.VideoFrame.from_image(dance_frame(number))))
        output.mux(video.encode(None))
        for piece in tone():
            output.mux(audio.encode(piece))
        output.mux(audio.encode(None))


def write_photo(path: Path) -> None:
    """Write the reference image: another person, standing."""
    image = scene("#a9def9", "#e4c1f9")
    figure(
        ImageDraw.Draw(image),
        time=0.0,
        skin="#8d5524",
        shirt="#2a9d8f",
        trousers="#e9c46a",
        scale=0.95,
    )
    image.save(path, quality=88)


if __name__ == "__main__":
    write_photo(HERE / "photo.jpg")
    write_dance(HERE / "dance.mp4")
