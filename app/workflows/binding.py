"""Values to graph. Pure: the graph that is given is never changed."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from app.workflows.manifest import FieldSpec, Manifest, Rule, Scalar, Target, holds

Graph: TypeAlias = dict[str, Any]
"""A ComfyUI graph in API format: node id to class, inputs and title."""


def title_of(node: Mapping[str, Any]) -> str:
    """A node's title; its class where it has none, as ComfyUI itself shows it."""
    return str(node.get("_meta", {}).get("title") or node.get("class_type", ""))


def ids_by_title(graph: Mapping[str, Any]) -> dict[str, str]:
    """Node ids by title. Titles are unique in a graph that was loaded."""
    return {title_of(node): node_id for node_id, node in graph.items()}


def is_link(value: object) -> bool:
    """Whether an input's value is a link: the id of a node and one of its output slots."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and not isinstance(value[1], bool)
    )


def literal(spec: FieldSpec, value: Scalar) -> Scalar:
    """What a node input gets for a field's value."""
    if isinstance(value, str):
        return spec.values.get(value, value)
    return float(value) if spec.type == "number" else value


def render(
    graph: Mapping[str, Any],
    manifest: Manifest,
    *,
    values: Mapping[str, Any],
    derived: Mapping[str, Scalar],
    files: Mapping[str, str],
    prefix: str,
) -> Graph:
    """Make the graph of one attempt.

    Args:
        graph: The workflow's own graph; not changed.
        manifest: Says what goes where.
        values: Every request field and operator option.
        derived: Values that the workflow's rules computed from those.
        files: Media field to the name under which the engine has the file.
        prefix: Start of the names of all files that the attempt writes.

    Returns:
        A new graph that holds only what its outputs need. Texts are put in as they are: nothing
        in them is looked at, and a text that looks like a link stays a text.
    """
    editor = _Editor(graph)
    for key, spec in (manifest.options | manifest.fields).items():
        if (value := values.get(key)) is not None:
            editor.put_all(spec.bind, literal(spec, value))
    for key, targets in manifest.derived.items():
        editor.put_all(targets, derived[key])
    for key, media in manifest.media.items():
        editor.put_all(media.bind, files[key])
    dropped: set[str] = set()
    for rule in manifest.rule:
        if holds(rule.when, values):
            editor.apply(rule)
            dropped.update(rule.drop)
    kept = [spec for spec in manifest.outputs.values() if spec.node not in dropped]
    for output in kept:
        editor.put(output.node, output.prefix_input, prefix + output.suffix)
    return prune(editor.graph, (editor.ids[output.node] for output in kept))


class _Editor:
    """Changes a copy of a graph by node title."""

    def __init__(self, graph: Mapping[str, Any]) -> None:
        self.graph: Graph = copy.deepcopy(dict(graph))
        self.ids = ids_by_title(graph)

    def put(self, title: str, name: str, value: object) -> None:
        self.graph[self.ids[title]]["inputs"][name] = value

    def put_all(self, targets: Iterable[Target], value: Scalar) -> None:
        for title, name in targets:
            self.put(title, name, value)

    def apply(self, rule: Rule) -> None:
        for title, name, constant in rule.set:
            self.put(title, name, constant)
        for title, name, source, slot in rule.link:
            self.put(title, name, [self.ids[source], slot])
        for title, name in rule.unlink:
            self.graph[self.ids[title]]["inputs"].pop(name, None)


def prune(graph: Mapping[str, Any], outputs: Iterable[str]) -> Graph:
    """The part of a graph that the given nodes need, in the graph's own order."""
    needed: set[str] = set()
    waiting = list(outputs)
    while waiting:
        node_id = waiting.pop()
        if node_id in needed or node_id not in graph:
            continue
        needed.add(node_id)
        waiting.extend(value[0] for value in graph[node_id]["inputs"].values() if is_link(value))
    return {node_id: node for node_id, node in graph.items() if node_id in needed}
