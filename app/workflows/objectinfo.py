"""Reading `/object_info`: what the engine says about its nodes, in either of its two forms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

ObjectInfo: TypeAlias = Mapping[str, Any]
"""Node class to its description, as ComfyUI answers it."""


def inputs(node: Mapping[str, Any]) -> dict[str, Any]:
    """Every input of a node class, required before optional: name to its description."""
    described = node.get("input", {})
    return {**described.get("required", {}), **described.get("optional", {})}


def required(node: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs that a graph must give."""
    return dict(node.get("input", {}).get("required", {}))


def kind(described: Iterable[Any]) -> Any:  # noqa: ANN401 - a type name or a list of choices
    """The type of an input: a name, or the list of choices in the older form."""
    return next(iter(described))


def settings(described: Any) -> Mapping[str, Any]:  # noqa: ANN401 - JSON
    """The settings of an input, such as its bounds."""
    found = described[1] if len(described) > 1 else {}
    return found if isinstance(found, dict) else {}


def choices(described: Any) -> list[Any] | None:  # noqa: ANN401 - JSON
    """What a combo lists; None where the input is no combo."""
    what = kind(described)
    if isinstance(what, list):
        return what
    if what == "COMBO":
        return list(settings(described).get("options", []))
    return None


def is_upload(described: Any) -> bool:  # noqa: ANN401 - JSON
    """Whether the engine marks a combo as one that takes uploaded files."""
    return any(key.endswith("_upload") and value for key, value in settings(described).items())


def format_inputs(node: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs that a node has only for the chosen file format (VideoHelperSuite)."""
    formats = settings(inputs(node).get("format", ("", {}))).get("formats", {})
    found = formats.get(given.get("format"), [])
    return {item[0]: item[1:] for item in found} if isinstance(found, list | tuple) else {}
