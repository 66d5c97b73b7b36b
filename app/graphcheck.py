"""Whether ComfyUI would accept a graph, by its own rules and in its own words.

Rules and texts are as recorded from ComfyUI 0.28.1 and 0.10.0 (`POST /prompt`): bounds are checked
for literals only, steps never, unknown inputs are ignored. The stand-in answers with it, and the
tests hold every rendered graph against it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_CONVERTERS: Mapping[str, type] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}
_LONG_LIST = 20
_UPLOADS: Mapping[str, tuple[str, str]] = {
    "LoadImage": ("image", "image"),
    "LoadImageMask": ("image", "image"),
    "LoadVideo": ("file", "video"),
    "VHS_LoadVideo": ("video", "video"),
    "VHS_LoadVideoFFmpeg": ("video", "video"),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What ComfyUI makes of a graph.

    Attributes:
        error: Why it is refused; None where at least one output is sound.
        node_errors: The faults by node, in ComfyUI's shape.
        outputs: The output nodes that would run.
        graph: The graph with its literals converted to the types of their inputs.
    """

    error: dict[str, Any] | None
    node_errors: dict[str, Any]
    outputs: tuple[str, ...]
    graph: dict[str, Any]


def validate_graph(graph: Mapping[str, Any], object_info: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict of the newest recorded version, with uploaded files taken as present.

    Args:
        graph: A graph in API format.
        object_info: The engine's answer to `GET /object_info`.

    Returns:
        `{"error": …, "node_errors": …}` as ComfyUI answers it. `error` is None and `node_errors`
        empty where the graph is accepted whole.
    """
    verdict = check_graph(graph, object_info)
    return {"error": verdict.error, "node_errors": verdict.node_errors}


def check_graph(
    graph: Mapping[str, Any],
    object_info: Mapping[str, Any],
    *,
    uploaded: Callable[[str], bool] = lambda _name: True,
    modern: bool = True,
) -> Verdict:
    """Validate a graph as `POST /prompt` does.

    Args:
        graph: A graph in API format; it is not changed.
        object_info: The engine's answer to `GET /object_info`.
        uploaded: Whether a file that a loader names is there.
        modern: Whether texts are those of 0.28.1; otherwise of 0.10.0.
    """
    checked = copy.deepcopy(dict(graph))
    for node_id, node in checked.items():
        if node.get("class_type") not in object_info:
            return _refused(_missing(node_id, node, modern=modern), checked)
    outputs = [
        node_id
        for node_id, node in checked.items()
        if object_info[node["class_type"]].get("output_node")
    ]
    if not outputs:
        return _refused(_error("prompt_no_outputs", "Prompt has no outputs"), checked)
    validation = _Validation(checked, object_info, uploaded=uploaded, modern=modern)
    good = tuple(output for output in outputs if validation.output(output))
    error = None
    if not good:
        error = _error("prompt_outputs_failed_validation", "Prompt outputs failed validation")
    return Verdict(error, validation.node_errors, good, checked)


def _refused(error: dict[str, Any], graph: dict[str, Any]) -> Verdict:
    return Verdict(error, {}, (), graph)


def _error(kind: str, message: str, details: str = "", **extra: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"type": kind, "message": message, "details": details, "extra_info": extra}


def _missing(node_id: str, node: Mapping[str, Any], *, modern: bool) -> dict[str, Any]:
    kind = node.get("class_type")
    details = f"Node ID '#{node_id}'"
    if not modern:
        problem = f"node {kind} does not exist."
        if kind is None:
            problem = "a node is missing the class_type property."
        return _error("invalid_prompt", f"Cannot execute because {problem}", details)
    title = node.get("_meta", {}).get("title") or kind
    problem = "not found. The custom node may not be installed."
    if kind is None:
        problem = "has no class_type. The workflow may be corrupted or a custom node is missing."
    return _error(
        "missing_node_type",
        f"Node '{title}' {problem}",
        details,
        node_id=node_id,
        class_type=kind,
        node_title=title,
    )


class _BrokenLink(Exception):
    """A link leads to a node or a slot that does not exist."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.kind = type(cause).__name__


class _Validation:
    """One walk from the outputs to what they need."""

    def __init__(
        self,
        graph: dict[str, Any],
        object_info: Mapping[str, Any],
        *,
        uploaded: Callable[[str], bool],
        modern: bool,
    ) -> None:
        self.node_errors: dict[str, Any] = {}
        self._graph = graph
        self._info = object_info
        self._uploaded = uploaded
        self._modern = modern
        self._faults: dict[str, list[dict[str, Any]]] = {}
        self._done: dict[str, bool] = {}
        self._path: list[str] = []

    def output(self, node_id: str) -> bool:
        """Whether an output node and all that it needs are sound; notes whom it depends on."""
        try:
            sound = self._node(node_id)
        except _BrokenLink as error:
            sound = False
            fault = _error(
                "exception_during_validation",
                "Exception when validating node",
                str(error),
                exception_type=error.kind,
                traceback=[],
            )
            self._faults.setdefault(node_id, []).append(fault)
        if not sound:
            for faulty, faults in self._faults.items():
                entry = self.node_errors.setdefault(
                    faulty,
                    {
                        "errors": faults,
                        "dependent_outputs": [],
                        "class_type": self._graph[faulty]["class_type"],
                    },
                )
                entry["dependent_outputs"].append(node_id)
        return sound

    def _node(self, node_id: str) -> bool:
        if node_id in self._path:
            self._cycle(self._path[self._path.index(node_id) :])
            return False
        if node_id not in self._done:
            self._path.append(node_id)
            try:
                self._done[node_id] = self._inputs(node_id)
            finally:
                self._path.pop()
        return self._done[node_id]

    def _cycle(self, members: list[str]) -> None:
        if not self._modern:
            return  # 0.10.0 runs into its recursion limit and names no node
        first = members.index(min(members))
        members = members[first:] + members[:first]
        names = [f"{member} ({self._graph[member]['class_type']})" for member in members]
        details = " -> ".join([*names, names[0]])
        for member in members:
            fault = _error(
                "dependency_cycle",
                "Dependency cycle detected",
                details,
                node_id=member,
                cycle_nodes=members,
            )
            self._faults.setdefault(member, []).append(fault)

    def _inputs(self, node_id: str) -> bool:
        node = self._graph[node_id]
        described = self._info[node["class_type"]].get("input", {})
        required = described.get("required", {})
        faults: list[dict[str, Any]] = []
        sound = True
        for name, spec in {**required, **described.get("optional", {})}.items():
            if name not in node["inputs"]:
                if name in required:
                    faults.append(
                        _error(
                            "required_input_missing",
                            "Required input is missing",
                            name,
                            input_name=name,
                        )
                    )
                continue
            value = node["inputs"][name]
            if isinstance(value, list):
                fault, reached = self._link(name, spec, value)
                sound = sound and reached
            else:
                fault = self._literal(node, name, spec)
            if fault is not None:
                faults.append(fault)
        if faults:
            self._faults.setdefault(node_id, []).extend(faults)
        return sound and not faults

    def _link(self, name: str, spec: Any, value: list[Any]) -> tuple[dict[str, Any] | None, bool]:  # noqa: ANN401
        config = _config(spec)
        if len(value) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            extra = {"input_name": name, "input_config": config, "received_value": value}
            return _error("bad_linked_input", message, name, **extra), True
        source, slot = value
        try:
            given = self._info[self._graph[source]["class_type"]]["output"][slot]
        except (KeyError, IndexError) as error:
            raise _BrokenLink(error) from error
        wanted = spec[0]
        if not _fits(given, wanted):
            return _error(
                "return_type_mismatch",
                "Return type mismatch between linked nodes",
                f"{name}, received_type({given}) mismatch input_type({wanted})",
                input_name=name,
                input_config=config,
                received_type=given,
                linked_node=value,
            ), True
        try:
            return None, self._node(source)
        except _BrokenLink as error:
            # As recorded, the fault is the linked node's, under the name of this input.
            self._faults[source] = [
                _error(
                    "exception_during_inner_validation",
                    "Exception when validating inner node",
                    str(error),
                    input_name=name,
                    input_config=config,
                    exception_message=str(error),
                    exception_type=error.kind,
                    traceback=['  File "execution.py", in validate_inputs\n'],
                    linked_node=value,
                )
            ]
            self._done[source] = False
            return None, False

    def _literal(self, node: dict[str, Any], name: str, spec: Any) -> dict[str, Any] | None:  # noqa: ANN401
        value = node["inputs"][name]
        config = _config(spec)
        kind, settings = config
        extra = {"input_name": name, "input_config": config, "received_value": value}
        convert = _CONVERTERS.get(kind) if isinstance(kind, str) else None
        if convert is not None:
            try:
                value = convert(value)
            except (ValueError, TypeError) as error:
                return _error(
                    "invalid_input_type",
                    f"Failed to convert an input value to a {kind} value",
                    f"{name}, {value}, {error}",
                    **extra,
                    exception_message=str(error),
                )
            node["inputs"][name] = extra["received_value"] = value
        upload = _UPLOADS.get(node["class_type"])
        if upload is not None and upload[0] == name:
            if self._uploaded(str(value)):
                return None
            details = f"{name} - Invalid {upload[1]} file: {value}"
            message = "Custom validation failed for node"
            return _error("custom_validation_failed", message, details, input_name=name)
        if "min" in settings and convert is not None and value < settings["min"]:
            message = f"Value {value} smaller than min of {settings['min']}"
            return _error("value_smaller_than_min", message, name, **extra)
        if "max" in settings and convert is not None and value > settings["max"]:
            message = f"Value {value} bigger than max of {settings['max']}"
            return _error("value_bigger_than_max", message, name, **extra)
        return _choice(name, kind, settings, extra)


def _choice(
    name: str,
    kind: Any,  # noqa: ANN401
    settings: Mapping[str, Any],
    extra: dict[str, Any],
) -> dict[str, Any] | None:
    listed = kind if isinstance(kind, list) else None
    if kind == "COMBO":
        listed = settings.get("options", [])
    value = extra["received_value"]
    if listed is None or value in listed:
        return None
    shown = str(listed)
    if len(listed) > _LONG_LIST:
        shown, extra = f"(list of length {len(listed)})", {**extra, "input_config": None}
    details = f"{name}: '{value}' not in {shown}"
    return _error("value_not_in_list", "Value not in list", details, **extra)


def _config(spec: Any) -> list[Any]:  # noqa: ANN401
    return [spec[0], spec[1] if len(spec) > 1 else {}]


def _fits(given: Any, wanted: Any) -> bool:  # noqa: ANN401 - type names or lists of choices
    if isinstance(wanted, list) or isinstance(given, list):
        return bool(given == wanted) or "*" in (given, wanted)
    if "*" in {given, wanted} or "COMFY_MATCHTYPE_V3" in {given, wanted}:
        return True
    return set(given.split(",")) <= set(wanted.split(","))
