"""Whether ComfyUI would accept a graph, by its own rules and in its own words.

Rules and texts as recorded from ComfyUI 0.28.1 (`POST /prompt`): bounds are checked for literals
only, steps never, unknown inputs are ignored. Uploaded files count as present.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.workflows import objectinfo
from app.workflows.binding import prune, title_of
from app.workflows.objectinfo import ObjectInfo

_CONVERTERS: Mapping[str, type] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


def validate_graph(graph: Mapping[str, Any], object_info: ObjectInfo) -> dict[str, Any]:
    """Validate a graph as `POST /prompt` does.

    Args:
        graph: A graph in API format.
        object_info: The engine's answer to `GET /object_info`.

    Returns:
        `{"error": …, "node_errors": …}` as ComfyUI answers it. `error` is None and `node_errors`
        empty where the graph is accepted whole.
    """
    for node_id, node in graph.items():
        if node.get("class_type") not in object_info:
            problem = "not found. The custom node may not be installed."
            if node.get("class_type") is None:
                problem = (
                    "has no class_type. The workflow may be corrupted or a custom node is missing."
                )
            return _refusal(
                "missing_node_type",
                f"Node '{title_of(node)}' {problem}",
                f"Node ID '#{node_id}'",
            )
    outputs = [
        node_id
        for node_id, node in graph.items()
        if object_info[node["class_type"]].get("output_node")
    ]
    if not outputs:
        return _refusal("prompt_no_outputs", "Prompt has no outputs", "")
    validation = _Validation(graph, object_info)
    good = [node_id for node_id in outputs if validation.node(node_id)]
    for output in outputs:
        if output not in good:
            for node_id in prune(graph, [output]):
                if node_id in validation.errors:
                    validation.errors[node_id]["dependent_outputs"].append(output)
    error = None
    if not good:
        error = _refusal("prompt_outputs_failed_validation", "Prompt outputs failed validation", "")
    return {"error": error and error["error"], "node_errors": validation.errors}


def _refusal(kind: str, message: str, details: str) -> dict[str, Any]:
    error = {"type": kind, "message": message, "details": details, "extra_info": {}}
    return {"error": error, "node_errors": {}}


class _Validation:
    """One walk from the outputs to what they need."""

    def __init__(self, graph: Mapping[str, Any], object_info: ObjectInfo) -> None:
        self.graph = graph
        self.info = object_info
        self.errors: dict[str, Any] = {}
        self._done: dict[str, bool] = {}
        self._path: list[str] = []

    def node(self, node_id: str) -> bool:
        """Whether a node and all that it needs are sound."""
        if node_id in self._path:
            cycle = self._path[self._path.index(node_id) :]
            first = cycle.index(min(cycle))
            cycle = cycle[first:] + cycle[:first]
            names = [f"{member} ({self.graph[member]['class_type']})" for member in cycle]
            details = " -> ".join([*names, names[0]])
            for member in cycle:
                self._fault(member, "dependency_cycle", "Dependency cycle detected", details, "")
            return False
        if node_id not in self._done:
            self._path.append(node_id)
            self._done[node_id] = self._inputs(node_id)
            self._path.pop()
        return self._done[node_id]

    def _inputs(self, node_id: str) -> bool:
        node = self.graph[node_id]
        described = self.info[node["class_type"]]
        needed = objectinfo.required(described)
        sound = True
        for name, spec in objectinfo.inputs(described).items():
            if name not in node["inputs"]:
                if name in needed:
                    self._fault(
                        node_id, "required_input_missing", "Required input is missing", name, name
                    )
                    sound = False
                continue
            value = node["inputs"][name]
            check = self._link if isinstance(value, list) else self._literal
            sound = check(node_id, name, spec, value) and sound
        return sound

    def _link(self, node_id: str, name: str, spec: Any, value: list[Any]) -> bool:  # noqa: ANN401
        if len(value) != 2:
            self._fault(
                node_id,
                "bad_linked_input",
                "Bad linked input, must be a length-2 list of [node_id, slot_index]",
                name,
                name,
            )
            return False
        source, slot = value
        try:
            given = self.info[self.graph[source]["class_type"]]["output"][slot]
        except (KeyError, IndexError, TypeError) as error:
            self._fault(
                node_id,
                "exception_during_inner_validation",
                "Exception when validating inner node",
                str(error),
                name,
            )
            return False
        wanted = objectinfo.kind(spec)
        if not _fits(given, wanted):
            self._fault(
                node_id,
                "return_type_mismatch",
                "Return type mismatch between linked nodes",
                f"{name}, received_type({given}) mismatch input_type({wanted})",
                name,
            )
            return False
        return self.node(source)

    def _literal(self, node_id: str, name: str, spec: Any, value: Any) -> bool:  # noqa: ANN401
        listed = objectinfo.choices(spec)
        if listed is not None:
            return self._choice(node_id, name, spec, value)
        convert = _CONVERTERS.get(objectinfo.kind(spec))
        if convert is None:
            return True
        try:
            value = convert(value)
        except (ValueError, TypeError) as error:
            self._fault(
                node_id,
                "invalid_input_type",
                f"Failed to convert an input value to a {objectinfo.kind(spec)} value",
                f"{name}, {value}, {error}",
                name,
            )
            return False
        bounds = objectinfo.settings(spec)
        if "min" in bounds and value < bounds["min"]:
            message = f"Value {value} smaller than min of {bounds['min']}"
            self._fault(node_id, "value_smaller_than_min", message, name, name)
            return False
        if "max" in bounds and value > bounds["max"]:
            message = f"Value {value} bigger than max of {bounds['max']}"
            self._fault(node_id, "value_bigger_than_max", message, name, name)
            return False
        return True

    def _choice(self, node_id: str, name: str, spec: Any, value: Any) -> bool:  # noqa: ANN401
        listed = objectinfo.choices(spec) or []
        loads = self.graph[node_id]["class_type"].startswith(("Load", "VHS_Load"))
        if value in listed or objectinfo.is_upload(spec) or (loads and name == "video"):
            return True
        details = f"{name}: '{value}' not in {listed}"
        self._fault(node_id, "value_not_in_list", "Value not in list", details, name)
        return False

    def _fault(self, node_id: str, kind: str, message: str, details: str, name: str) -> None:
        entry = self.errors.setdefault(
            node_id,
            {
                "errors": [],
                "dependent_outputs": [],
                "class_type": self.graph[node_id]["class_type"],
            },
        )
        entry["errors"].append(
            {
                "type": kind,
                "message": message,
                "details": details,
                "extra_info": {"input_name": name} if name else {},
            }
        )


def _fits(given: Any, wanted: Any) -> bool:  # noqa: ANN401 - type names or lists of choices
    if isinstance(wanted, list) or isinstance(given, list):
        return bool(given == wanted) or "*" in (given, wanted)
    if "*" in {given, wanted} or "COMFY_MATCHTYPE_V3" in {given, wanted}:
        return True
    return set(given.split(",")) <= set(wanted.split(","))
