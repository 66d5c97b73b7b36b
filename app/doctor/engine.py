"""ComfyUI: whether it answers, known traps of its version, and what each workflow misses in it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.comfy.client import ComfyClient, EngineError
from app.doctor.finding import Finding
from app.wire import MissingPart
from app.workflows import models, objectinfo
from app.workflows.check import check
from app.workflows.workflow import Workflow

_DETECTION = ("OnnxDetectionModelLoader", ("vitpose_model", "yolo_model"))
_HIDES_ONNX = (0, 23)
_NEW_KJNODES = (0, 11)
"""Before it, node packs that use `search_aliases` lose nodes."""
_ONNX_ADVICE = (
    "Update ComfyUI-WanAnimatePreprocess, use ComfyUI 0.22.3 or older, or put .onnx back into the "
    "folder's extensions with a local node (docs/workflows.md)."
)


async def engines(
    urls: Sequence[str],
    workflows: Sequence[Workflow],
    *,
    models_dir: Path | None,
    max_upload_bytes: int,
    timeout_seconds: float = 10.0,
) -> list[Finding]:
    """Look at every ComfyUI server.

    Args:
        urls: Their base URLs.
        workflows: What is installed, under the operator's options.
        models_dir: ComfyUI's models folder, for the command that is advised.
        max_upload_bytes: The largest media file that the gateway takes.
        timeout_seconds: Longest wait for an answer.
    """
    found: list[Finding] = []
    for url in urls:
        client = ComfyClient(url, timeout_seconds=timeout_seconds)
        try:
            version = (await client.system_stats()).comfyui_version
            limit = (await client.features()).max_upload_size
            object_info = await client.object_info()
        except EngineError as error:
            advice = "Start ComfyUI, or set GATEWAY_COMFYUI_URLS to where it listens."
            found.append(Finding(f"comfyui {url}", "fail", str(error), advice))
            continue
        finally:
            await client.aclose()
        found += inspect(
            url,
            version=version,
            upload_limit=limit,
            object_info=object_info,
            workflows=workflows,
            models_dir=models_dir,
            max_upload_bytes=max_upload_bytes,
        )
    return found


def inspect(
    url: str,
    *,
    version: str,
    upload_limit: int,
    object_info: Mapping[str, Any],
    workflows: Sequence[Workflow],
    models_dir: Path | None,
    max_upload_bytes: int,
) -> list[Finding]:
    """Judge what one server said of itself. Pure."""
    found = [Finding(f"comfyui {url}", "ok", f"ComfyUI {version}, {len(object_info)} nodes.")]
    if upload_limit < max_upload_bytes:
        detail = f"It takes files up to {upload_limit:,} bytes; the gateway {max_upload_bytes:,}."
        megabytes = -(-max_upload_bytes // 1024**2)
        advice = f"Start it with --max-upload-size {megabytes}, or lower GATEWAY_MAX_UPLOAD_BYTES."
        found.append(Finding("comfyui upload limit", "warn", detail, advice))
    found += onnx_trap(version, object_info)
    for workflow in workflows:
        found += parts(workflow, version, check(workflow, object_info), models_dir)
    return found


def onnx_trap(version: str, object_info: Mapping[str, Any]) -> list[Finding]:
    """Whether ComfyUI hides the .onnx files of `models/detection`, as 0.23.0 and later do."""
    node, names = _DETECTION
    described = object_info.get(node)
    if described is None:
        return []
    specs = [objectinfo.inputs(described).get(name) for name in names]
    listed = [str(file) for spec in specs if spec for file in objectinfo.choices(spec) or []]
    if any(file.endswith(".onnx") for file in listed):
        return [Finding("comfyui .onnx list", "ok", f"{node} lists .onnx files.")]
    if _number(version) < _HIDES_ONNX:
        detail = f"{node} lists no .onnx file: none is in models/detection."
        return [Finding("comfyui .onnx list", "warn", detail, "See the models below.")]
    detail = f"{node} lists no .onnx file: ComfyUI {version} hides them in models/detection."
    return [Finding("comfyui .onnx list", "fail", detail, _ONNX_ADVICE)]


def parts(
    workflow: Workflow, version: str, missing: Sequence[MissingPart], models_dir: Path | None
) -> list[Finding]:
    """One finding for the nodes, the inputs and the models of a workflow each."""
    found = []
    for kind, title in (("node", "nodes"), ("input", "inputs"), ("model", "models")):
        lacking = [part for part in missing if part.kind == kind]
        name = f"{workflow.name} {title}"
        if not lacking:
            found.append(Finding(name, "ok", "All there."))
            continue
        names = ", ".join(part.name for part in lacking)
        detail = f"Missing: {names}. {lacking[0].detail}"
        advice = (
            models.download_command(workflow, models_dir)
            if kind == "model"
            else _pack_advice(version)
        )
        found.append(Finding(name, "fail", detail, advice))
    return found


def manifest(workflow: Workflow, models_dir: Path | None) -> list[Finding]:
    """What of a workflow's model files was never seen in a public source, and what lies here."""
    if not workflow.models:
        return []
    unseen = [model for model in workflow.models if models.marks(model)]
    found = []
    if unseen:
        detail = "; ".join(f"{model.file}: {', '.join(models.marks(model))}" for model in unseen)
        name = f"{workflow.name} manifest"
        if all(model.verified.name for model in unseen):
            found.append(Finding(name, "ok", f"Unverified: {detail}."))
        else:
            command = f"steadydancer models download --workflow {workflow.name} --dry-run"
            advice = f"Ask the repositories whether they have them: {command}"
            found.append(Finding(name, "warn", f"Unverified: {detail}.", advice))
    if models_dir is None:
        return found
    wrong = [
        f"{model.file} ({seen.state.replace('_', ' ')})"
        for model in workflow.models
        if (seen := models.look(models_dir, model)).state != "present"
    ]
    name = f"{workflow.name} files"
    if wrong:
        advice = models.download_command(workflow, models_dir)
        detail = f"In {models_dir}: {', '.join(wrong)}."
        return [*found, Finding(name, "fail", detail, advice)]
    return [*found, Finding(name, "ok", f"All {len(workflow.models)} lie in {models_dir}.")]


def _pack_advice(version: str) -> str:
    advice = "Install or update the node pack, restart ComfyUI and read its log for import errors."
    if _number(version) < _NEW_KJNODES:
        advice += (
            f" ComfyUI {version} leaves out nodes of ComfyUI-KJNodes newer than commit 955a93b."
        )
    return advice


def _number(version: str) -> tuple[int, ...]:
    """`0.28.1` as numbers; an unknown version counts as the newest."""
    found = re.match(r"v?(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (999,)
