"""The README's own commands, run as they stand there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from tests.clikit import invoke
from tests.docker.programs import program
from tests.livekit import DANCE, PHOTO, ROOT, Live, environment, live

README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORT = '{"prompt": "a person is dancing", "frames": 5, "width": 256, "height": 256}'


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("readme")) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(PHOTO, tmp_path / "me.jpg")
    shutil.copy(DANCE, tmp_path / "dance.mp4")
    return tmp_path


def run(command: list[str], folder: Path) -> None:
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    ended = subprocess.run(
        command,
        cwd=folder,
        env=environment(PATH=path, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    with av.open(str(folder / "dancing.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 5


def test_the_curl_does_everything(gateway: Live, folder: Path) -> None:
    program("curl", "curl")
    script = next(block for block in blocks("bash") if "curl" in block)
    script = script.replace("http://127.0.0.1:8000", gateway.url)
    run(
        [
            "bash",
            "-euo",
            "pipefail",
            "-c",
            script.replace('{"prompt": "a person is dancing"}', SHORT),
        ],
        folder,
    )


def test_the_command_line_does_it(gateway: Live, folder: Path) -> None:
    line = next(block for block in blocks("bash") if "submit" in block).splitlines()[0]
    small = f"--url {gateway.url} --set frames=5 --set width=256 --set height=256"
    run(["bash", "-c", f"{line} {small}"], folder)


def test_the_python_does_it(gateway: Live, folder: Path) -> None:
    code = blocks("python")[0].replace("http://127.0.0.1:8000", gateway.url)
    run([sys.executable, "-c", code.replace('{"prompt": "a person is dancing"}', SHORT)], folder)


def test_the_commands_that_it_names_exist(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    named = {
        line.split()[1]
        for block in blocks("bash")
        for line in block.splitlines()
        if line.startswith("steadydancer ")
    }
    told = invoke(monkeypatch, capsys, "--help", environment={"COLUMNS": "120"}).stdout
    assert named
    assert all(f"│ {name} " in told for name in named)
