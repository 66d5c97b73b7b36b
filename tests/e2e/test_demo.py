"""`steadydancer demo`, which is what `make demo` runs: real processes, a small request."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import av
import httpx
import pytest

from tests.chaos.processes import HTTP, until
from tests.livekit import environment

SMALL = ("--set", "width=256", "--set", "height=256", "--set", "frames=5")
COMMAND = (sys.executable, "-m", "app.cli", "demo")


def demo(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words],
        cwd=folder,
        env=environment(GATEWAY_PORT="1", GATEWAY_ADMISSION="nvml"),  # neither is the demo's
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def urls_of(text: str) -> list[str]:
    return re.findall(r"http://127\.0\.0\.1:\d+", text)


def answers(url: str) -> bool:
    try:
        HTTP.get(url)
    except httpx.HTTPError:
        return False
    return True


def all_silent(urls: list[str]) -> bool:
    return not any(answers(url) for url in urls)


def test_without_a_terminal_it_makes_a_right_mp4_and_ends(tmp_path: Path) -> None:
    run = demo(tmp_path, *SMALL)
    assert run.returncode == 0, run.stdout + run.stderr
    with av.open(str(tmp_path / "demo.mp4")) as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height) == (256, 256)
        assert stream.average_rate == 16
        assert sum(1 for _ in video.decode(stream)) == 5
    assert "demo.mp4: 256 x 256, 5 frames at 16 per second, with sound" in run.stdout
    assert "GATEWAY_ADMISSION=off" in run.stdout
    assert "sampling" in run.stderr
    assert re.search(r"Dashboard  http://127.0.0.1:\d+/\n", run.stdout)
    assert re.search(r"API page   http://127.0.0.1:\d+/docs\n", run.stdout)
    assert "-F reference_image=@me.jpg" in run.stdout
    assert all_silent(urls_of(run.stdout))


def test_a_file_that_is_missing_is_named_before_anything_starts(tmp_path: Path) -> None:
    run = demo(tmp_path, "--image", "me.jpg")
    assert run.returncode == 2
    assert run.stderr == "There is no file me.jpg.\n"
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_picture_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "me.jpg").write_text("not a picture")
    run = demo(tmp_path, "--image", "me.jpg")
    assert run.returncode == 2
    assert "reference_image" in run.stderr
    assert "Traceback" not in run.stderr
    assert all_silent(urls_of(run.stdout))


class Terminal:
    """The demo with a terminal on its input and output."""

    def __init__(self, folder: Path) -> None:
        ours, theirs = pty.openpty()
        self._ours = ours
        self.text = ""
        self.process = subprocess.Popen(
            [*COMMAND, *SMALL],
            cwd=folder,
            env=environment(TERM="xterm", COLUMNS="120"),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        os.set_blocking(ours, False)

    def shows(self, words: str) -> bool:
        try:
            while data := os.read(self._ours, 65_536):
                self.text += data.decode()
        except (BlockingIOError, OSError):
            pass
        return words in self.text

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


def test_on_a_terminal_the_servers_stay_up_until_ctrl_c(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    try:
        until(lambda: terminal.shows("until Ctrl-C"), what="the demo is done")
        assert "100 %" in terminal.text  # bars, not lines
        engine, gateway = dict.fromkeys(urls_of(terminal.text))
        assert HTTP.get(f"{gateway}/").status_code == 200
        assert HTTP.get(f"{gateway}/docs").status_code == 200
        assert HTTP.get(f"{gateway}/v1/jobs").json()["jobs"][0]["status"] == "succeeded"
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(120) == 0
        assert all_silent([engine, gateway])
    finally:
        terminal.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_killed_it_leaves_no_server_behind(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    try:
        until(lambda: terminal.shows("Admission is off"), what="both servers answer")
        urls = urls_of(terminal.text)
        terminal.process.kill()
        until(lambda: all_silent(urls), what="the servers have ended")
    finally:
        terminal.close()
