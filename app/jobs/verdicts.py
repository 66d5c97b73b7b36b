"""From what ComfyUI says of a failure to the note that a job keeps. Pure."""

from __future__ import annotations

from app.comfy.client import GraphRefused
from app.comfy.messages import ExecutionError, public_text
from app.errors import FAILURES
from app.jobs.queue import FailureNote
from app.jobs.states import Loss

_MODEL_SUFFIXES = (".safetensors", ".gguf", ".onnx", ".bin", ".pth", ".ckpt")


def of_error(error: ExecutionError | None) -> FailureNote:
    """Say why a run failed. The exception's own words stay the operator's."""
    if error is None:
        return FailureNote("execution-error", "The engine says that the run failed, not why.")
    return FailureNote(
        error.kind.replace("_", "-"),
        public_text(f"{error.node_type}: {error.message}"),
        error.node_id,
        error.node_type,
        f"{error.exception_type}\n{error.traceback}",
    )


def of_refusal(refusal: GraphRefused) -> FailureNote:
    """Say why a graph was refused."""
    first = refusal.node_errors[0] if refusal.node_errors else None
    missing = (
        first is not None
        and first.kind == "value_not_in_list"
        and any(suffix in first.details for suffix in _MODEL_SUFFIXES)
    )
    return FailureNote(
        "missing-model" if missing else "graph-refused",
        public_text(str(refusal)),
        first.node_id if first is not None else None,
        first.node_type if first is not None else None,
        str(refusal),
    )


def of_loss(loss: Loss, detail: str) -> FailureNote:
    """Say what is told if this loss is the one that ends the job."""
    return FailureNote(loss.value if loss.value in FAILURES else "engine-died", detail)
