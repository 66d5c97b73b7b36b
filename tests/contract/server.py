"""A stand-in in a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.contract.recording import Recording
from tests.mediakit import image_bytes, make_video

REFERENCE = "ref.png"
DANCE = "dance.mp4"


class StandInProcess:
    """A stand-in started by its one command.

    Attributes:
        url: Where it answers.
        directory: Its files.
    """

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.options = options
        self.url = ""
        self._port = 0
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, again on the same port, and wait for its one line."""
        command = [sys.executable, "-m", "app.standin", "--port", str(self._port)]
        command += ["--directory", str(self.directory), *self.options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = json.loads(self._process.stdout.readline())
        self._port = line["port"]
        self.url = line["url"]

    def kill(self) -> None:
        """End it as the kernel would."""
        assert self._process is not None
        self._process.kill()
        self._leave()

    def terminate(self) -> int:
        """End it as a service manager would; tells its exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._leave()

    def _leave(self) -> int:
        assert self._process is not None
        assert self._process.stdout is not None
        status = self._process.wait(timeout=60)
        self._process.stdout.close()
        return status

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None


def prepare_files(directory: Path, recording: Recording, samples: Path) -> None:
    """Put the files in place that lay there before a scenario was recorded."""
    for kind in ("input", "output", "temp"):
        shutil.rmtree(directory / kind, ignore_errors=True)
        (directory / kind).mkdir(parents=True)
    for sample in samples.iterdir():
        shutil.copy(sample, directory / "input")
    for (subfolder, prefix), counter in recording.produced().items():
        folder = directory / "output" / subfolder
        folder.mkdir(parents=True, exist_ok=True)
        if counter > 1:
            (folder / f"{prefix}_{counter - 1:05}_.mp4").write_bytes(b"from before" * 100)
    if recording.name.startswith("11_"):
        (directory / "output/video/slow_00001_.mp4").write_bytes(b"from before" * 100)


def make_samples(directory: Path) -> Path:
    """The photo and the dance that the recordings name."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / REFERENCE).write_bytes(image_bytes())
    make_video(directory / DANCE, width=64, height=112, frames=32, fps=16)
    return directory
