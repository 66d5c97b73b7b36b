"""What real servers said of themselves, shipped as data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

PROBES: Mapping[str, Any] = {
    "ProbeSlow": {
        "input": {
            "required": {
                "image": ["IMAGE"],
                "steps": ["INT", {"default": 4, "min": 1, "max": 10000}],
                "delay": ["FLOAT", {"default": 0.5, "min": 0.0, "max": 3600.0}],
                "preview": ["BOOLEAN", {"default": False}],
                "salt": ["INT", {"default": 0, "min": 0, "max": 2147483647}],
            }
        },
        "output": ["IMAGE"],
        "output_node": False,
    },
    "ProbeRaise": {
        "input": {
            "required": {
                "image": ["IMAGE"],
                "message": ["STRING", {"default": "the node failed"}],
                "kind": ["STRING", {"default": "RuntimeError"}],
            }
        },
        "output": ["IMAGE"],
        "output_node": False,
    },
}
"""The two nodes that were written for the recordings."""


def recorded(version: str, name: str) -> dict[str, Any]:
    """A recorded document: `object_info` or `server` (features, system, model folders)."""
    file = resources.files("app.standin").joinpath("data", f"{name}.v{version}.json")
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return document


def object_info(
    version: str, *, probes: bool = False, models: Mapping[str, list[str]] | None = None
) -> dict[str, Any]:
    """The node classes of a recorded server: those the two workflows use, and their neighbors.

    Args:
        version: Which recording to take.
        probes: Whether the recording's probe nodes are there.
        models: `NodeClass.input` to file names added to that input's choices.

    Raises:
        ValueError: No such input, or it is no list of choices.
    """
    info = recorded(version, "object_info")
    if probes:
        info.update(json.loads(json.dumps(PROBES)))
    for place, names in (models or {}).items():
        kind, _, given = place.partition(".")
        if kind not in info:
            raise ValueError(f"no node class '{kind}'")
        listed = choices(info[kind], given)
        listed.extend(name for name in names if name not in listed)
    return info


def choices(described: Mapping[str, Any], name: str) -> list[str]:
    """The choices of one input, in either of ComfyUI's two ways to list them.

    Raises:
        ValueError: No such input, or it is no list of choices.
    """
    inputs = described["input"]
    spec = {**inputs.get("required", {}), **inputs.get("optional", {})}.get(name)
    if spec is None:
        raise ValueError(f"no input '{name}'")
    listed = spec[0] if isinstance(spec[0], list) else spec[1].get("options")
    if not isinstance(listed, list):
        raise ValueError(f"'{name}' is no list of choices")  # noqa: TRY004 - a value of the user's
    return listed
