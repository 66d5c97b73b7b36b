#!/usr/bin/env python3
# ruff: noqa: S101, S603, T201 - run in a build, which an assertion ends
"""Fail the build when what was installed does not load together.

A resolver's success proves nothing: a set that resolves may still not import.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

APP = Path(os.environ.get("COMFYUI_APP", "/opt/comfyui/app"))
PACKS = (
    "ComfyUI-WanVideoWrapper",
    "ComfyUI-VideoHelperSuite",
    "ComfyUI-WanAnimatePreprocess",
    "ComfyUI-KJNodes",
)


def check_torch(wanted: argparse.Namespace) -> None:
    """Versions that a later layer must not have moved."""
    torch = importlib.import_module("torch")
    numpy = importlib.import_module("numpy")
    version = torch.__version__.partition("+")[0]
    assert version == wanted.torch, f"torch is {torch.__version__}, not {wanted.torch}"
    assert torch.version.cuda == wanted.cuda, f"torch's CUDA is {torch.version.cuda}"
    major = numpy.__version__.partition(".")[0]
    assert major == wanted.numpy, f"numpy is {numpy.__version__}"
    importlib.import_module("cv2")
    importlib.import_module("comfy_kitchen")
    runtime = importlib.import_module("onnxruntime")
    assert "CUDAExecutionProvider" in runtime.get_available_providers()
    print(f"torch {torch.__version__}, CUDA {torch.version.cuda}, numpy {numpy.__version__}")


def check_mmcv(wanted: argparse.Namespace) -> None:
    """See that mmcv has operations that were compiled for CUDA."""
    operations = importlib.import_module("mmcv.ops")
    compiled = operations.get_compiling_cuda_version()
    assert compiled == wanted.cuda, f"mmcv's operations were compiled for: {compiled}"
    for name in ("mmdet", "mmpose"):
        importlib.import_module(name)
    print(f"mmcv's operations were compiled for CUDA {compiled}")


def check_flash_attn() -> None:
    """The binary loads, so its C++ ABI is torch's."""
    print(f"flash-attn {importlib.import_module('flash_attn').__version__}")
    importlib.import_module("flash_attn_2_cuda")


def check_nodes() -> None:
    """ComfyUI and each node pack, loaded by ComfyUI itself, without a GPU."""
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            [
                *(sys.executable, "main.py", "--cpu", "--quick-test-for-ci", "--disable-api-nodes"),
                *("--database-url", "sqlite:///:memory:", "--user-directory", scratch),
                *("--temp-directory", scratch, "--input-directory", scratch),
            ],
            cwd=APP,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    assert done.returncode == 0, f"ComfyUI does not load:\n{done.stdout[-6000:]}"
    for pack in PACKS:
        line = next((line for line in done.stdout.splitlines() if line.endswith(f"/{pack}")), None)
        assert line is not None, f"{pack} was not looked at:\n{done.stdout[-6000:]}"
        assert "IMPORT FAILED" not in line, f"{pack} does not load:\n{done.stdout[-6000:]}"
    print(f"ComfyUI loads, with {', '.join(PACKS)}")


def main() -> None:
    """Run the checks up to the layer that was just made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("layer", choices=["torch", "mmcv", "all", "nodes"])
    parser.add_argument("--torch", required=True)
    parser.add_argument("--cuda", required=True)
    parser.add_argument("--numpy", required=True, help="major version")
    parser.add_argument("--flash-attn", choices=["0", "1"], default="0")
    wanted = parser.parse_args()
    check_torch(wanted)
    if wanted.layer in {"mmcv", "all"} or importlib.util.find_spec("mmcv"):
        check_mmcv(wanted)
    if wanted.flash_attn == "1" or importlib.util.find_spec("flash_attn"):
        check_flash_attn()
    if wanted.layer == "nodes":
        check_nodes()


if __name__ == "__main__":
    main()
