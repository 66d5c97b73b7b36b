"""The recorded conversations with real ComfyUI servers, and what is not compared in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDERS = {"0.28.1": "transcripts", "0.10.0": "transcripts.v0.10.0"}
HERE = Path(__file__).resolve().parent
OUTPUT_NAME = re.compile(r"^(?P<prefix>.+)_(?P<counter>\d{5})_?\.\w+$")

SLOWNESS = 0.2
"""Share of a recorded `delay` that a replayed ProbeSlow waits."""


@dataclass(frozen=True, slots=True)
class Action:
    """Something the recorded client did.

    Attributes:
        at: Seconds from the start of the recording.
        kind: `http`, `open`, `say`, `close`, `kill`, `terminate` or `restart`.
        event: The recorded event.
    """

    at: float
    kind: str
    event: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Recording:
    """One scenario of one version."""

    version: str
    name: str
    events: tuple[dict[str, Any], ...]

    def actions(self) -> list[Action]:
        """What the client did, in the order it did it."""
        found = [action for event in self.events if (action := _action(event))]
        return sorted(found, key=lambda action: action.at)

    def received(self, socket: str) -> list[dict[str, Any]]:
        """What one socket received, in order."""
        return [
            event
            for event in self.events
            if event["channel"] == "ws"
            and event.get("socket") == socket
            and event.get("direction") == "server->client"
        ]

    def sockets(self) -> list[str]:
        """Names of the sockets."""
        names = {e["socket"]: None for e in self.events if e["channel"] == "ws" and "socket" in e}
        return list(names)

    def produced(self) -> dict[tuple[str, str], int]:
        """The lowest counter of each (subfolder, prefix) of the files it made."""
        lowest: dict[tuple[str, str], int] = {}
        for event in self.events:
            told = (event.get("message") or {}).get("type") == "executed"
            if told or isinstance(event.get("response"), dict):
                for entry in _files(event.get("message") or event.get("response")):
                    match = OUTPUT_NAME.match(entry["filename"])
                    if match and entry.get("type") == "output":
                        key = (entry["subfolder"], match["prefix"])
                        number = int(match["counter"])
                        lowest[key] = min(number, lowest.get(key, number))
        return lowest

    def warm_nodes(self) -> tuple[dict[str, Any], list[str]] | None:
        """The first graph and its nodes that were cached before the scenario began."""
        first = next(
            (
                event["message"]["data"]
                for event in self.events
                if (event.get("message") or {}).get("type") == "execution_cached"
            ),
            None,
        )
        if first is None or not first["nodes"]:
            return None
        graph = next(
            event["request"]["prompt"]
            for event in self.events
            if event.get("path") == "/prompt"
            and (event.get("response") or {}).get("prompt_id") == first["prompt_id"]
        )
        return graph, first["nodes"]


def _files(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "filename" in value and "subfolder" in value:
            yield value
        for inner in value.values():
            yield from _files(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _files(inner)


def _action(event: dict[str, Any]) -> Action | None:
    if event["channel"] == "http":
        return Action(event["t_request"], "http", event)
    if event["channel"] == "note":
        kinds = {"SIGKILL": "kill", "SIGTERM": "terminate", "server started again": "restart"}
        kind = kinds.get(event["text"])
        return Action(event["t"], kind, event) if kind else None
    if event.get("event") == "open":
        return Action(event["t"], "open", event)
    if event.get("event") == "closed" and event["close_code"] is None:
        return Action(event["t"], "close", event)
    if event.get("direction") == "client->server" and "message" in event:
        return Action(event["t"], "say", event)
    return None


def _slowed(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: inner * SLOWNESS
            if name == "delay" and isinstance(inner, float)
            else _slowed(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_slowed(inner) for inner in value]
    return value


@cache
def load(version: str, name: str) -> Recording:
    """One recording, its slow nodes made faster."""
    file = HERE / FOLDERS[version] / f"{name}.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    return Recording(version, name, tuple(_slowed(document["events"])))


def names(version: str) -> list[str]:
    """Every recorded scenario of a version."""
    return sorted(file.stem for file in (HERE / FOLDERS[version]).glob("*.json"))
