"""The videos: made from the real inputs, of the asked size, length and rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from app.standin.reading import Choice
from tests.mediakit import corners, make_video, number_of
from tests.standin.conftest import dance, engine_in, smoke


class Video:
    """What a file holds."""

    def __init__(self, path: Path) -> None:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            self.codec = stream.codec_context.name
            self.pix_fmt = stream.codec_context.pix_fmt
            self.rate = float(stream.average_rate or 0)
            self.sound = [
                float((one.duration or 0) * (one.time_base or 0)) for one in container.streams.audio
            ]
            frames: Any = container.decode(stream)
            self.frames: list[Any] = [frame.to_image() for frame in frames]

    @property
    def size(self) -> tuple[int, int]:
        size: tuple[int, int] = self.frames[0].size
        return size


async def test_smoke_puts_the_reference_before_the_driving_frames(tmp_path: Path) -> None:
    async with engine_in(tmp_path, work=True) as engine:
        entry = await engine.run(smoke(frames=17))
        video = Video(engine.file(entry, "9", "images"))
    assert entry["outputs"]["9"]["animated"] == [True]
    assert (video.codec, video.pix_fmt, video.rate) == ("h264", "yuv420p", 16)
    assert video.size == (64, 112)
    assert len(video.frames) == 18
    assert [number_of(frame) for frame in video.frames[1:6]] == [0, 1, 2, 3, 4]


async def test_a_dance_has_the_asked_size_length_rate_and_sound(tmp_path: Path) -> None:
    async with engine_in(tmp_path, work=True) as engine:
        entry = await engine.run(dance(width=112, height=192, frames=11))
        video = Video(engine.file(entry, "90", "gifs"))
        told = entry["outputs"]["90"]["gifs"][0]
        beside = engine.file(entry, "90", "gifs").parent / told["workflow"]
        with Image.open(beside) as picture:
            assert "class_type" in picture.info["prompt"]
    assert told["filename"].endswith("_00001-audio.mp4")
    assert told["fullpath"] == str(engine.file(entry, "90", "gifs"))
    assert video.size == (112, 192)
    assert len(video.frames) == 9, "11 is cut to 4n+1"
    assert video.rate == 16
    assert video.sound == [pytest.approx(9 / 16, abs=0.05)]


async def test_the_silent_file_stays_beside_the_one_with_sound(tmp_path: Path) -> None:
    async with engine_in(tmp_path, work=True) as engine:
        entry = await engine.run(dance(frames=5))
        path = engine.file(entry, "90", "gifs")
        silent = Video(path.with_name(path.name.replace("-audio", "")))
    assert silent.sound == []
    assert len(silent.frames) == 5


async def test_a_mute_driving_video_gives_a_mute_dance(tmp_path: Path) -> None:
    async with engine_in(tmp_path, work=True) as engine:
        entry = await engine.run(dance(frames=5, video="mute.mp4"))
    assert entry["outputs"]["90"]["gifs"][0]["filename"] == "steadydancer_00001.mp4"


async def test_the_dance_shows_the_reference_over_the_driving_frames(tmp_path: Path) -> None:
    async with engine_in(tmp_path, work=True) as engine:
        Image.new("RGB", (60, 100), (255, 255, 255)).save(tmp_path / "input/ref.png")
        entry = await engine.run(dance(frames=5))
        middle = Video(engine.file(entry, "90", "gifs")).frames[2]
        pose = Video(engine.file(entry, "91", "gifs")).frames[2]
    red, green, blue = middle.getpixel((60, 150))
    assert min(red, green) > 200
    assert 110 < blue < 190, "half yellow, half white"
    assert sum(pose.getpixel((20, 60))) < 60, "a flat part of a pose video is black"


async def test_a_video_shorter_than_asked_gives_what_it_has(tmp_path: Path) -> None:
    async with engine_in(tmp_path, work=True) as engine:
        entry = await engine.run(dance(frames=81))
        video = Video(engine.file(entry, "90", "gifs"))
    assert len(video.frames) == 29, "48 frames at 24 are 32 at 16, cut to 4n+1"


async def test_a_turned_video_is_shown_upright(tmp_path: Path) -> None:
    async with engine_in(tmp_path, work=True) as engine:
        path = tmp_path / "input/dance.mp4"
        make_video(path, width=160, height=96, frames=8, fps=16, rotation=90)
        entry = await engine.run(smoke(frames=4))
        video = Video(engine.file(entry, "9", "images"))
    assert corners(video.frames[2]) == "gyrb", "a quarter turn counterclockwise"


async def test_sizes_that_the_model_cannot_join_fail_in_the_sampler(tmp_path: Path) -> None:
    async with engine_in(tmp_path) as engine:
        graph = dance(width=104, height=152, frames=5)
        entry = await engine.run(graph)
    kind, data = entry["status"]["messages"][-1]
    assert kind == "execution_error"
    assert data["node_type"] == "WanVideoSampler"
    assert "must match the size of tensor" in data["exception_message"]


async def test_without_work_the_file_still_has_the_right_shape(tmp_path: Path) -> None:
    async with engine_in(tmp_path, output_bytes=300_000) as engine:
        entry = await engine.run(dance(width=112, height=192, frames=9))
        path = engine.file(entry, "90", "gifs")
        video = Video(path)
        assert path.stat().st_size == 300_000
    assert video.size == (112, 192)
    assert len(video.frames) == 9


@pytest.mark.parametrize(
    ("choice", "count", "rate", "taken"),
    [
        (Choice(), 4, 24, [0, 1, 2, 3]),
        (Choice(rate=16), 6, 24, [0, 2, 4, 5]),
        (Choice(rate=24), 4, 16, [0, 1, 2, 2, 3]),
        (Choice(rate=16, skip=2, cap=2), 9, 16, [2, 3]),
        (Choice(nth=3), 7, 16, [0, 3, 6]),
        (Choice(cap=10, wan=True), 32, 16, list(range(9))),
        (Choice(rate=16, wan=True), 32, 16, list(range(29))),
        (Choice(skip=9), 9, 16, []),
    ],
)
def test_frames_are_chosen_as_video_helper_suite_chooses(
    choice: Choice, count: int, rate: float, taken: list[int]
) -> None:
    assert choice.of(count, rate) == taken
