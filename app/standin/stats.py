"""How often each prompt was accepted, started and ran to its end.

The figures are kept in an append-only file, so that a restarted stand-in still knows them: the
tests that kill it count runs here.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

LOG_NAME = "standin-runs.jsonl"


class RunLog:
    """The append-only record of what happened to each prompt."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOG_NAME
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def note(self, event: str, prompt_id: str, **more: Any) -> None:  # noqa: ANN401 - plain JSON
        """Record `accepted`, `started` or `ended`."""
        line = {
            "event": event,
            "prompt_id": prompt_id,
            "monotonic_ns": time.monotonic_ns(),
            "time": time.time(),
            "pid": os.getpid(),
            **more,
        }
        # One write to a file opened for appending: a kill cannot leave half a line.
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def read(self) -> dict[str, Any]:
        """All prompts with their counts and runs, as `GET /standin/stats` answers."""
        prompts: dict[str, dict[str, Any]] = {}
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        for line in lines:
            entry = json.loads(line)
            prompt = prompts.setdefault(
                entry.pop("prompt_id"),
                {"accepted": 0, "started": 0, "ended": 0, "succeeded": 0, "events": []},
            )
            prompt[entry["event"]] += 1
            prompt["succeeded"] += entry.get("outcome") == "success"
            prompt["events"].append(entry)
        return {"prompts": prompts}
