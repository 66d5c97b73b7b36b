"""What the log says at start of a workflow that cannot run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from structlog.testing import capture_logs

from app.comfy.client import ComfyClient
from app.comfy.messages import Features
from app.jobs.engine import Engine
from app.workflows.registry import load_workflows

ROOT = Path(__file__).parents[2]


async def test_a_variant_without_its_files_is_logged_with_the_command_that_brings_them() -> None:
    workflows = load_workflows(ROOT / "workflows")
    dancer = workflows.get("steadydancer")
    text = (ROOT / "tests/data/object_info.json").read_text(encoding="utf-8")
    file = dancer.models[0].file
    info: dict[str, Any] = json.loads(text.replace(file, "another.bin"))

    async def object_info() -> dict[str, Any]:
        return info

    async def features() -> Features:
        return Features()

    client = cast("ComfyClient", SimpleNamespace(object_info=object_info, features=features))
    engine = Engine(name="0", client=client, workflows=workflows)
    with capture_logs() as logs:
        await engine._check_workflows()
    (line,) = [one for one in logs if one["event"] == "workflow unavailable"]
    assert line["workflow"] == "steadydancer"
    assert line["missing"] == [file]
    command = f"steadydancer models download --workflow steadydancer --variant {dancer.variant}"
    assert line["download"][0].startswith(command)
