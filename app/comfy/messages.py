"""What ComfyUI says, typed. Unknown messages and unknown fields are ignored.

Shapes as recorded from ComfyUI 0.10.0 and 0.28.1 (`tests/contract/transcripts*`).
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

ErrorKind = Literal["out_of_memory", "cuda_fault", "bad_media", "missing_model", "execution_error"]

_PATH = re.compile(r"(?<![\w:/.])(?:/[\w.@+<>~-]+){2,}/?|\b[A-Za-z]:\\[\w.\\@+~-]+")


def public_text(text: str) -> str:
    """Take absolute paths out of ComfyUI's text, which may be shown to clients then."""
    return _PATH.sub(
        lambda found: "…/" + re.split(r"[/\\]", found[0].rstrip("/\\"))[-1], text
    ).strip()


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Device(_Wire):
    """One device of `/system_stats`; sizes in bytes."""

    name: str = ""
    type: str = ""
    vram_total: int = 0
    vram_free: int = 0
    torch_vram_total: int = 0
    torch_vram_free: int = 0


class _SystemPart(_Wire):
    comfyui_version: str = "unknown"
    python_version: str = ""
    pytorch_version: str = ""


class SystemStats(_Wire):
    """`GET /system_stats`, without the machine's paths."""

    system: _SystemPart = _SystemPart()
    devices: tuple[Device, ...] = ()

    @property
    def comfyui_version(self) -> str:
        """Such as `0.28.1`."""
        return self.system.comfyui_version


class Features(_Wire):
    """`GET /features`."""

    max_upload_size: int = 100 * 1024 * 1024
    supports_preview_metadata: bool = False


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file in one of ComfyUI's folders: `output`, `input` or `temp`."""

    filename: str
    subfolder: str
    type: str
    node_id: str = ""


@dataclass(frozen=True, slots=True)
class ExecutionError:
    """Why a run failed. `message` and `traceback` are the operator's: they may hold paths."""

    node_id: str
    node_type: str
    exception_type: str
    message: str
    traceback: str

    @property
    def kind(self) -> ErrorKind:
        """What kind of failure it is, by the exception's type and words."""
        return classify(self.exception_type, self.message)


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """A finished prompt. An interrupted one is told by its last message alone."""

    outcome: Literal["success", "error", "interrupted"]
    outputs: tuple[OutputFile, ...]
    error: ExecutionError | None


# --- over the websocket ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """`execution_start`."""

    prompt_id: str


@dataclass(frozen=True, slots=True)
class Cached:
    """`execution_cached`: nodes that need not run."""

    prompt_id: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Executing:
    """`executing`: the node that runs now; None when the prompt has ended and history has it."""

    prompt_id: str | None
    node: str | None


@dataclass(frozen=True, slots=True)
class NodeProgress:
    """`progress`: a node's own steps."""

    prompt_id: str
    node: str
    value: float
    max: float


@dataclass(frozen=True, slots=True)
class NodesProgress:
    """`progress_state`: the nodes that are finished."""

    prompt_id: str
    finished: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Executed:
    """`executed`: an output node is done."""

    prompt_id: str
    node: str


@dataclass(frozen=True, slots=True)
class Succeeded:
    """`execution_success`. The history entry may not be there yet."""

    prompt_id: str


@dataclass(frozen=True, slots=True)
class Failed:
    """`execution_error`."""

    prompt_id: str
    error: ExecutionError


@dataclass(frozen=True, slots=True)
class Interrupted:
    """`execution_interrupted`."""

    prompt_id: str


@dataclass(frozen=True, slots=True)
class Preview:
    """A picture of what is being sampled; without metadata it is not said for which prompt."""

    prompt_id: str | None
    media_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class QueueRemaining:
    """`status`: prompts that wait or run."""

    remaining: int
    prompt_id: None = None


Message = (
    Started
    | Cached
    | Executing
    | NodeProgress
    | NodesProgress
    | Executed
    | Succeeded
    | Failed
    | Interrupted
    | Preview
    | QueueRemaining
)


def parse_text(text: str) -> Message | None:
    """Read a text frame; None for what is unknown or not as recorded."""
    try:
        frame = json.loads(text)
        return _parse(str(frame["type"]), frame["data"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _parse(  # noqa: C901, PLR0911 - one case for each message there is
    kind: str, data: Mapping[str, Any]
) -> Message | None:
    match kind:
        case "execution_start":
            return Started(str(data["prompt_id"]))
        case "execution_cached":
            return Cached(str(data["prompt_id"]), tuple(map(str, data["nodes"])))
        case "executing":
            node = data["node"]
            return Executing(data.get("prompt_id"), str(node) if node is not None else None)
        case "progress":
            return NodeProgress(
                str(data["prompt_id"]), str(data["node"]), float(data["value"]), float(data["max"])
            )
        case "progress_state":
            nodes = data["nodes"].items()
            finished = tuple(str(node) for node, state in nodes if state["state"] == "finished")
            return NodesProgress(str(data["prompt_id"]), finished)
        case "executed":
            return Executed(str(data["prompt_id"]), str(data["node"]))
        case "execution_success":
            return Succeeded(str(data["prompt_id"]))
        case "execution_error":
            return Failed(str(data["prompt_id"]), parse_error(data))
        case "execution_interrupted":
            return Interrupted(str(data["prompt_id"]))
        case "status":
            return QueueRemaining(int(data["status"]["exec_info"]["queue_remaining"]))
        case _:
            return None


_PREVIEW, _PREVIEW_WITH_METADATA = 1, 4
_FORMATS = {1: "image/jpeg", 2: "image/png"}


def parse_binary(frame: bytes) -> Message | None:
    """Read a binary frame: previews of type 1 and 4; others are ignored."""
    if len(frame) < 8:
        return None
    kind, second = struct.unpack(">II", frame[:8])
    if kind == _PREVIEW and second in _FORMATS:
        return Preview(None, _FORMATS[second], frame[8:])
    if kind == _PREVIEW_WITH_METADATA and 8 + second <= len(frame):
        try:
            about = json.loads(frame[8 : 8 + second])
            return Preview(about["prompt_id"], str(about["image_type"]), frame[8 + second :])
        except (ValueError, KeyError, TypeError):
            return None
    return None


# --- history --------------------------------------------------------------------------------


def parse_history(entry: Mapping[str, Any]) -> HistoryEntry:
    """Read one entry of `/history`."""
    messages = entry["status"]["messages"]
    last, data = messages[-1] if messages else ("", {})
    outcome: Literal["success", "error", "interrupted"] = "success"
    if last == "execution_interrupted":
        outcome = "interrupted"
    elif last == "execution_error" or entry["status"]["status_str"] != "success":
        outcome = "error"
    return HistoryEntry(
        outcome,
        tuple(output_files(entry["outputs"])),
        parse_error(data) if last == "execution_error" else None,
    )


def output_files(outputs: Mapping[str, Any]) -> list[OutputFile]:
    """Give the files of all nodes, whatever key they stand under (`images`, `gifs`, …)."""
    return [
        OutputFile(item["filename"], item.get("subfolder", ""), item["type"], node_id)
        for node_id, output in outputs.items()
        for listed in output.values()
        if isinstance(listed, list)
        for item in listed
        if isinstance(item, dict) and "filename" in item and "type" in item
    ]


def parse_error(data: Mapping[str, Any]) -> ExecutionError:
    """Read the data of `execution_error`."""
    trace = data.get("traceback", "")
    return ExecutionError(
        node_id=str(data.get("node_id", "")),
        node_type=str(data.get("node_type", "")),
        exception_type=str(data.get("exception_type", "")),
        message=str(data.get("exception_message", "")).strip(),
        traceback="".join(trace) if isinstance(trace, list) else str(trace),
    )


_OUT_OF_MEMORY = ("outofmemoryerror",)
_OUT_OF_MEMORY_WORDS = ("out of memory", "allocation on device")
_FAULT_WORDS = (
    "cuda error",
    "cudnn_status",
    "cublas_status",
    "device-side assert",
    "gpu is lost",
    "unspecified launch failure",
    "illegal memory access",
)
_MEDIA_TYPES = ("unidentifiedimageerror", "av.error.", "decompressionbomb")
_MODEL_WORDS = ("safetensor", "header too small", "invalidheader")


def classify(exception_type: str, message: str) -> ErrorKind:
    """Say what kind of failure an exception is."""
    kind, words = exception_type.lower(), message.lower()
    if kind.endswith(_OUT_OF_MEMORY) or any(part in words for part in _OUT_OF_MEMORY_WORDS):
        return "out_of_memory"
    if any(part in words for part in _FAULT_WORDS) or kind.endswith("acceleratorerror"):
        return "cuda_fault"
    if any(part in kind for part in _MEDIA_TYPES):
        return "bad_media"
    if any(part in kind or part in words for part in _MODEL_WORDS):
        return "missing_model"
    return "execution_error"
