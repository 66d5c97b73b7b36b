"""In which order ComfyUI runs a graph, and what makes two nodes the same to its cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from app.standin.inputs import UPLOADS, locate


def is_link(value: Any) -> bool:  # noqa: ANN401 - any input value
    """Whether an input is the output of another node."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def sources(node: Mapping[str, Any]) -> list[str]:
    """The nodes one node is linked to, in the order of its inputs."""
    return [value[0] for value in node["inputs"].values() if is_link(value)]


def order(graph: Mapping[str, Any], outputs: Sequence[str], cached: set[str]) -> Iterator[str]:
    """The nodes to run, one after the other; outputs and what leads to them go first.

    Cached nodes are passed over, except outputs, whose old result is told again.
    """
    pending = _collect(graph, outputs, cached)
    waits = {
        node_id: {s for s in sources(graph[node_id]) if s in pending and s not in cached}
        for node_id in pending
    }
    final = set(outputs)
    while pending:
        ready = [node_id for node_id in pending if not waits[node_id]]
        chosen = _pick(ready, waits, final)
        yield chosen
        pending.remove(chosen)
        for blockers in waits.values():
            blockers.discard(chosen)


def _collect(graph: Mapping[str, Any], outputs: Sequence[str], cached: set[str]) -> list[str]:
    pending: dict[str, None] = {}
    for output in outputs:
        stack = [output]
        while stack:
            node_id = stack.pop()
            if node_id in pending:
                continue
            pending[node_id] = None
            if node_id in cached:
                continue
            stack.extend(s for s in sources(graph[node_id]) if s not in cached)
    return list(pending)


def _pick(ready: list[str], waits: Mapping[str, set[str]], final: set[str]) -> str:
    def blocked(node_id: str) -> list[str]:
        return [other for other, blockers in waits.items() if node_id in blockers]

    for node_id in ready:
        if node_id in final:
            return node_id
    for node_id in ready:
        if any(after in final for after in blocked(node_id)):
            return node_id
    for node_id in ready:
        if any(later in final for after in blocked(node_id) for later in blocked(after)):
            return node_id
    return ready[0]


def signatures(graph: Mapping[str, Any], directory: Path) -> dict[str, str]:
    """A key for each node: its class, its inputs and those of all before it, and its files."""
    keys: dict[str, str] = {}

    def key(node_id: str) -> str:
        if node_id not in keys:
            node = graph[node_id]
            inputs = {
                name: [key(value[0]), value[1]] if is_link(value) else value
                for name, value in sorted(node["inputs"].items())
            }
            text = json.dumps([node["class_type"], inputs, _files(node, directory)])
            keys[node_id] = hashlib.sha256(text.encode()).hexdigest()
        return keys[node_id]

    for node_id in graph:
        key(node_id)
    return keys


def _files(node: Mapping[str, Any], directory: Path) -> list[Any]:
    """Size and time of the uploaded files that a node reads: another content is another key."""
    if node["class_type"] not in UPLOADS:
        return []
    found = []
    for value in node["inputs"].values():
        if isinstance(value, str):
            with contextlib.suppress(OSError, ValueError):
                stat = locate(directory, value).stat()
                found.append([stat.st_size, stat.st_mtime_ns])
    return found
