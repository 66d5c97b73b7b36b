"""A Hub on this machine, and a workflow with small model files in two variants."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.workflows.manifest import ModelFile
from app.workflows.registry import load_workflows
from tests.clikit import Ended, invoke
from tests.models.hubserver import FakeHub, Served, serving

ROOT = Path(__file__).resolve().parents[2]

BASE = random.Random(1).randbytes(3_000_000)
SMALL = random.Random(2).randbytes(900_000)
LARGE = random.Random(3).randbytes(1_200_000)

_MANIFEST = """
[operator]
variant = "small"

[options.variant]
type = "string"
choices = ["small", "large"]
description = "Which packing."

[variants.small]
title = "Small"

[variants.large]
title = "Large"

[[models]]
file = "base.safetensors"
folder = "text_encoders"
repository = "maker/parts"
path = "deep/base.safetensors"
size_bytes = {base_size}
sha256 = "{base_sha}"
license = "AGPL-3.0"
license_note = "ask a lawyer"
verified = {{ name = true, size = true }}

[[models]]
file = "small.gguf"
folder = "diffusion_models"
repository = "maker/model"
path = "small.gguf"
size_bytes = 880000
license = "Apache-2.0"
verified = {{ name = false, size = false }}
needed = {{ variant = "small" }}

[[models]]
file = "large.gguf"
folder = "diffusion_models"
repository = "maker/model"
path = "large.gguf"
size_bytes = 1200000
license = "Apache-2.0"
verified = {{ name = true, size = false }}
needed = {{ variant = "large" }}
"""


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving() as fake:
        fake.files = {
            "maker/parts/deep/base.safetensors": Served(BASE),
            "maker/model/small.gguf": Served(SMALL),
            "maker/model/large.gguf": Served(LARGE),
        }
        yield fake


@pytest.fixture
def workflows_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "workflows" / "smoke"
    shutil.copytree(ROOT / "workflows" / "smoke", folder)
    manifest = folder / "workflow.toml"
    parts = _MANIFEST.format(base_size=len(BASE), base_sha=Served(BASE).sha256)
    text = manifest.read_text(encoding="utf-8")
    head, rest = text.split("[media.reference_image]", 1)
    manifest.write_text(f"{head}[media.reference_image]{rest}{parts}", encoding="utf-8")
    return folder.parent


@pytest.fixture
def base(workflows_dir: Path) -> ModelFile:
    """The file whose size and hash the manifest states."""
    return load_workflows(workflows_dir).get("smoke").all_models[0]


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


Start = Callable[..., "subprocess.Popen[str]"]
Run = Callable[..., Ended]


@pytest.fixture
def environment(hub: FakeHub, workflows_dir: Path, models_dir: Path) -> dict[str, str]:
    return {
        "HF_ENDPOINT": hub.url,
        "COLUMNS": "200",
        "GATEWAY_WORKFLOWS_DIR": str(workflows_dir),
        "GATEWAY_MODELS_DIR": str(models_dir),
    }


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Start:
    """Start `steadydancer models …` as a process of its own."""

    def started(*words: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "app.cli", "models", *words],
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                **environment,
                **more,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return started


@pytest.fixture
def steadydancer(
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Run it to its end in this process."""

    def run(*words: str, **more: str) -> Ended:
        return invoke(monkeypatch, capsys, "models", *words, environment={**environment, **more})

    return run
