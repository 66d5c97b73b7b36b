"""What differs from run to run, taken out of recordings and answers alike.

Everything that is not compared is named here, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MASK = "<masked>"

TIMES = {  # the moment of the run
    "timestamp",
    "create_time",
    "execution_start_time",
    "execution_end_time",
}
UNORDERED = {"executed", "current_outputs"}  # Python sets in the real server
OPAQUE = {"traceback"}  # lines of the real server's source
TENSOR = re.compile(r"^(tensor\(|<comfy_api|Clip\(|Film\(|/).*", re.DOTALL)  # values of links
LAST_LOG = re.compile(
    r"; last error log: .*(?=\n$)", re.DOTALL
)  # FFmpeg's log, told only if it is on
RECORDED_ROOT = "<comfyui>"


@dataclass(slots=True)
class Names:
    """How names of the recording read in this run.

    Attributes:
        root: The directory of the running server.
        ids: Recorded prompt id to the id of this run.
        recorded_base: Number of the first prompt of the recording.
        base: Number of the first prompt of this run.
    """

    root: Path
    ids: dict[str, str] = field(default_factory=dict)
    recorded_base: int | None = None
    base: int | None = None

    def rename(self, text: str) -> str:
        """A recorded text with the ids of this run."""
        for recorded, actual in self.ids.items():
            text = text.replace(recorded, actual)
        return text

    def expected(self, value: Any) -> Any:
        """A recorded value as it should read in this run."""
        return _plain(value, self.rename, self.recorded_base)

    def actual(self, value: Any) -> Any:
        """A value of this run."""
        return _plain(value, self._relative, self.base)

    def _relative(self, text: str) -> str:
        return text.replace(str(self.root), RECORDED_ROOT)


def _plain(value: Any, text: Any, base: int | None, key: str = "") -> Any:
    if isinstance(value, dict):
        return {text(name): _member(name, inner, text, base) for name, inner in value.items()}
    if isinstance(value, list):
        if _is_item(value):
            rest = [_plain(inner, text, base) for inner in value[1:]]
            return [_number(value[0], base), *rest]
        if key == "errors":
            value = sorted(value, key=lambda e: (e["type"], e["extra_info"].get("input_name", "")))
        return [_plain(inner, text, base) for inner in value]
    return text(value) if isinstance(value, str) else value


def _member(name: str, value: Any, text: Any, base: int | None) -> Any:
    if name in TIMES:
        assert isinstance(value, int), f"{name} is a number of milliseconds"
        return MASK
    if name in OPAQUE:
        assert isinstance(value, list), f"{name} is a list"
        return MASK
    if name in UNORDERED:
        return sorted(value)
    if name in {"number", "priority"} and isinstance(value, int | float):
        return _number(value, base)
    if name == "current_inputs":
        return {
            given: [MASK if isinstance(v, str) and TENSOR.match(v) else v for v in values]
            for given, values in value.items()
        }
    if name == "exception_message":
        return LAST_LOG.sub("", text(value))
    if name == "total":
        return MASK  # of a history that other scenarios share
    return _plain(value, text, base, name)


def _is_item(value: list[Any]) -> bool:
    return len(value) == 5 and isinstance(value[0], int | float) and isinstance(value[2], dict)


def _number(value: float, base: int | None) -> float:
    """Queue numbers count from the start of the server; negative ones go to the front."""
    if base is None:
        return value
    return (abs(value) - base) * (-1 if value < 0 else 1)


def shape(value: Any) -> Any:
    """The types and names of a value whose content belongs to one machine."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        kinds = [shape(inner) for inner in value]
        return kinds[:1] if all(kind == kinds[0] for kind in kinds) else kinds
    return (
        "number"
        if isinstance(value, int | float) and not isinstance(value, bool)
        else (type(value).__name__)
    )


def headers(recorded: Mapping[str, str], length: int | None) -> dict[str, str]:
    """The recorded headers that a client may rely on, for a file of another length."""
    kept = {
        "content-type",
        "content-disposition",
        "accept-ranges",
        "x-content-type-options",
        "content-range",
    }
    found = {name.lower(): value for name, value in recorded.items() if name.lower() in kept}
    match = re.match(r"bytes (\*|(\d+)-(\d+))/(\d+)$", found.get("content-range", ""))
    if match and length is not None:
        total = int(match[4])
        if match[1] == "*":
            found["content-range"] = f"bytes */{length}"
        else:
            start, end = int(match[2]), int(match[3])
            if end == total - 1 and start > total // 2:
                start = length - (total - start)
            if end == total - 1:
                end = length - 1
            found["content-range"] = f"bytes {start}-{end}/{length}"
    return found
