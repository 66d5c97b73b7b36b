"""The shipped workflows, and two recorded engines that have every model file of theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.workflows.registry import Registry, load_workflows, standin_models
from app.workflows.workflow import Workflow

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
RECORDINGS = ("object_info.json", "object_info.v0.10.0.json")


def recorded(name: str) -> dict[str, Any]:
    """A recorded `/object_info` as it is."""
    loaded: dict[str, Any] = json.loads((DATA / name).read_text(encoding="utf-8"))
    return loaded


def with_models(object_info: dict[str, Any], registry: Registry) -> dict[str, Any]:
    """The same engine with every model file in its lists."""
    for place, files in standin_models(registry).items():
        class_type, name = place.split(".")
        spec = object_info[class_type]["input"]["required"][name]
        spec[0] = sorted({*spec[0], *files})
    return object_info


@pytest.fixture(scope="session")
def registry() -> Registry:
    return load_workflows(ROOT / "workflows")


@pytest.fixture(scope="session")
def dancer(registry: Registry) -> Workflow:
    return registry.get("steadydancer")


@pytest.fixture(scope="session", params=RECORDINGS)
def engine(request: pytest.FixtureRequest, registry: Registry) -> dict[str, Any]:
    """Each recorded engine, with every model file present."""
    return with_models(recorded(request.param), registry)
