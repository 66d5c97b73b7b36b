"""download_models.sh, with the real command line, against a Hub that misbehaves."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models.hubserver import FakeHub, Served, serving

ROOT = Path(__file__).resolve().parents[2]
WHOLE = random.Random(7).randbytes(1_500_000)
MODEL = """
[[models]]
file = "part.safetensors"
folder = "vae"
repository = "maker/parts"
path = "part.safetensors"
size_bytes = {size}
sha256 = "{sha256}"
license = "Apache-2.0"
verified = {{ name = true, size = true }}
"""


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving() as fake:
        fake.files = {"maker/parts/part.safetensors": Served(WHOLE)}
        yield fake


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    smoke = tmp_path / "workflows" / "smoke"
    shutil.copytree(ROOT / "workflows" / "smoke", smoke)
    with (smoke / "workflow.toml").open("a", encoding="utf-8") as manifest:
        manifest.write(MODEL.format(size=len(WHOLE), sha256=Served(WHOLE).sha256))
    return folder


def download(hub: FakeHub, models: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "docker" / "download_models.sh"), *options],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(models.parent),
            "STEADYDANCER": str(Path(sys.executable).parent / "steadydancer"),
            "HF_ENDPOINT": hub.url,
            "GATEWAY_WORKFLOWS_DIR": str(models.parent / "workflows"),
            "GATEWAY_MODELS_DIR": str(models),
            "TRIES": "2",
            "PAUSE_SECONDS": "0",
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def only(hub: FakeHub) -> Served:
    return hub.files["maker/parts/part.safetensors"]


def test_a_transfer_that_breaks_off_goes_on_where_it_was(hub: FakeHub, models: Path) -> None:
    only(hub).cuts = [400_000, 300_000]
    done = download(hub, models, "--verify")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (models / "vae" / "part.safetensors").read_bytes() == WHOLE
    assert hub.served() == [None, "bytes=400000-", "bytes=700000-"]


@pytest.mark.parametrize("lie", ["size", "bytes"])
def test_what_is_not_what_was_asked_for_is_not_put_in_place(
    hub: FakeHub, models: Path, lie: str
) -> None:
    served = only(hub)
    if lie == "size":
        served.stated_size = len(WHOLE) - 5
    else:
        served.data = WHOLE[:-1] + bytes([WHOLE[-1] ^ 1])
        served.stated_sha256 = Served(WHOLE).sha256
    done = download(hub, models)
    assert done.returncode == 1
    assert "goes on where it stopped" in done.stderr
    assert not (models / "vae" / "part.safetensors").exists()


def test_a_missing_file_is_a_failure_and_leaves_no_empty_file(hub: FakeHub, models: Path) -> None:
    hub.files.clear()
    done = download(hub, models)
    assert done.returncode == 1
    assert [one for one in models.rglob("*") if one.is_file()] == []


def test_a_dry_run_brings_nothing(hub: FakeHub, models: Path) -> None:
    done = download(hub, models, "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert hub.cdn_requests == []
    assert list(models.iterdir()) == []
