"""Reading the workflow folders. The only place of this room that touches files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from app.errors import UnknownWorkflow
from app.workflows.binding import title_of
from app.workflows.consistency import check_manifest
from app.workflows.manifest import Manifest, ManifestError, Scalar, read_manifest
from app.workflows.rules import Rules
from app.workflows.steadydancer import SteadyDancerRules
from app.workflows.workflow import Workflow

RULES: Mapping[str, type[Rules]] = {"plain": Rules, "steadydancer": SteadyDancerRules}
"""What a manifest can name under `rules`."""


class Registry:
    """The installed workflows, by name."""

    def __init__(self, workflows: Mapping[str, Workflow]) -> None:
        self._workflows = dict(sorted(workflows.items()))

    def __iter__(self) -> Iterator[Workflow]:
        return iter(self._workflows.values())

    def __len__(self) -> int:
        return len(self._workflows)

    def get(self, name: str) -> Workflow:
        """The workflow of that name.

        Raises:
            UnknownWorkflow: None is installed; the text names those that are.
        """
        found = self._workflows.get(name)
        if found is None:
            known = ", ".join(self._workflows) or "none"
            raise UnknownWorkflow(f'No workflow is called "{name[:64]}". Installed are: {known}.')
        return found


def load_workflows(
    directory: Path, *, overrides: Mapping[str, Mapping[str, Scalar]] | None = None
) -> Registry:
    """Read every folder of `directory` that holds a `workflow.toml`.

    Args:
        directory: Where the workflows lie.
        overrides: Workflow name to operator options that take the place of those in the file.

    Raises:
        ManifestError: A folder cannot be used; the text names the file and the key.
    """
    overrides = overrides or {}
    files = sorted(directory.glob("*/workflow.toml"))
    if not files:
        raise ManifestError(directory, "", "no folder with a workflow.toml lies here")
    names = {file.parent.name for file in files}
    for name in overrides:
        if name not in names:
            known = ", ".join(sorted(names))
            raise ManifestError(
                directory, name, f"options are set for it, but there is only {known}"
            )
    return Registry(
        {
            file.parent.name: load_workflow(file, overrides.get(file.parent.name, {}))
            for file in files
        }
    )


def load_workflow(file: Path, overrides: Mapping[str, Scalar]) -> Workflow:
    """Read one workflow.

    Args:
        file: Its `workflow.toml`; `graph.json` lies beside it.
        overrides: Operator options that take the place of those in the file.

    Raises:
        ManifestError: It cannot be used.
    """
    manifest = read_manifest(file)
    graph = read_graph(file.with_name("graph.json"))
    operator = {**manifest.operator, **overrides}
    check_manifest(file, manifest, graph, operator=operator)
    if manifest.rules not in RULES:
        known = ", ".join(RULES)
        raise ManifestError(file, "rules", f'there are no rules "{manifest.rules}", only {known}')
    rules = RULES[manifest.rules](manifest=manifest)
    check_derived(file, manifest, rules)
    return Workflow(
        name=file.parent.name, manifest=manifest, graph=graph, rules=rules, operator=operator
    )


def read_graph(file: Path) -> dict[str, Any]:
    """Read a graph in API format.

    Raises:
        ManifestError: It is absent, no JSON, not in API format, or has a title twice.
    """
    try:
        graph = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ManifestError(file, "", str(error)) from error
    if not isinstance(graph, dict) or not all(
        isinstance(node, dict) and "class_type" in node and isinstance(node.get("inputs"), dict)
        for node in graph.values()
    ):
        raise ManifestError(
            file, "", "not a graph in API format; export it with Workflow > Export (API)"
        )
    seen: set[str] = set()
    for node_id, node in graph.items():
        title = title_of(node)
        if title in seen:
            raise ManifestError(file, node_id, f'the title "{title}" is used twice')
        seen.add(title)
    return graph


def check_derived(file: Path, manifest: Manifest, rules: Rules) -> None:
    """Hold the derived values that the manifest binds against those that the rules compute."""
    if not manifest.derived:
        return
    known = rules.derived(rules.settle({}, {}).values)
    for name in manifest.derived:
        if name not in known:
            raise ManifestError(
                file, f"derived.{name}", f'the rules "{manifest.rules}" compute no such value'
            )


def standin_models(registry: Registry) -> dict[str, list[str]]:
    """Model files that a stand-in engine must list, as `NodeClass.input` to file names."""
    found: dict[str, set[str]] = {}
    for workflow in registry:
        classes = {title_of(node): node["class_type"] for node in workflow.graph.values()}
        for model in workflow.all_models:
            for title, name in model.listed:
                found.setdefault(f"{classes[title]}.{name}", set()).add(model.file)
    return {key: sorted(files) for key, files in sorted(found.items())}
