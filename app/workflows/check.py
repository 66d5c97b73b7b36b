"""Whether an engine has what a workflow needs, by exact names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from app.wire import MissingPart
from app.workflows import objectinfo
from app.workflows.binding import is_link, literal, title_of
from app.workflows.manifest import FieldSpec, ModelFile
from app.workflows.objectinfo import ObjectInfo
from app.workflows.workflow import Workflow

_ONNX_TRAP = (
    "The engine lists no .onnx file at all: ComfyUI 0.23.0 and later hide them in "
    "models/detection. Update ComfyUI-WanAnimatePreprocess, use ComfyUI 0.22.3 or older, or add a "
    "local node that puts .onnx back into the folder's extensions (docs/workflows.md)."
)


def check(workflow: Workflow, object_info: ObjectInfo) -> tuple[MissingPart, ...]:
    """What an engine lacks for a workflow under the operator's options.

    Args:
        workflow: The workflow.
        object_info: The engine's answer to `GET /object_info`.

    Returns:
        Missing nodes, inputs and model files by exact name; empty where the workflow can run.
    """
    found: dict[tuple[str, str], MissingPart] = {}
    models = {
        (*target, model.file): model for model in workflow.all_models for target in model.listed
    }
    uses = _uses(workflow)
    for node in workflow.graph.values():
        class_type, title = node["class_type"], title_of(node)
        described = object_info.get(class_type)
        if described is None:
            found["node", class_type] = MissingPart(
                kind="node",
                name=class_type,
                detail=f'The engine has no node {class_type} (for "{title}"). Install or update '
                "the node pack that brings it.",
            )
            continue
        for part in _inputs(title, class_type, described, uses[title], models):
            found[part.kind, part.name] = part
    return tuple(found.values())


def _uses(workflow: Workflow) -> dict[str, dict[str, list[Any]]]:
    """Node title to its inputs, each with every literal that a rendering can put there.

    An input that gets only links or uploaded files has no literals.
    """
    manifest = workflow.manifest
    uses: dict[str, dict[str, list[Any]]] = {
        title_of(node): {
            name: [] if is_link(value) else [value] for name, value in node["inputs"].items()
        }
        for node in workflow.graph.values()
    }

    for spec, values in _bound(workflow):
        for title, name in spec.bind:
            uses[title][name] = [literal(spec, value) for value in values]
    for media in manifest.media.values():
        for title, name in media.bind:
            uses[title][name] = []
    for rule in manifest.rule:
        for title, name, constant in rule.set:
            uses[title].setdefault(name, []).append(constant)
        for title, name, _, _ in rule.link:
            uses[title].setdefault(name, [])
    return uses


def _bound(workflow: Workflow) -> Iterator[tuple[FieldSpec, list[Any]]]:
    """Every option with the values it can have here, every field with its choices.

    Only choices are held against the engine's lists; numbers have bounds of their own.
    """
    normal, low = workflow.options(), workflow.options(low_memory=True)
    for name, spec in workflow.manifest.options.items():
        if name in normal:
            yield spec, list(dict.fromkeys((normal[name], low[name])))
    for spec in workflow.manifest.fields.values():
        yield spec, list(spec.choices or ())


def _inputs(
    title: str,
    class_type: str,
    described: Mapping[str, Any],
    used: Mapping[str, list[Any]],
    models: Mapping[tuple[str, str, str], ModelFile],
) -> Iterator[MissingPart]:
    known = objectinfo.inputs(described)
    formats = used.get("format", [])
    own = objectinfo.format_inputs(described, {"format": formats[0] if formats else None})
    for name in objectinfo.required(described):
        if name not in used:
            yield MissingPart(
                kind="input",
                name=f"{class_type}.{name}",
                detail=f'The engine\'s {class_type} asks for the input {name}, which "{title}" in '
                "graph.json does not give: the node pack is of another version.",
            )
    for name, values in used.items():
        spec = known.get(name) or own.get(name)
        if spec is None:
            yield MissingPart(
                kind="input",
                name=f"{class_type}.{name}",
                detail=f'The engine\'s {class_type} has no input {name} (for "{title}"): the node '
                "pack is of another version.",
            )
            continue
        listed = objectinfo.choices(spec)
        if listed is None or objectinfo.is_upload(spec):
            continue
        for value in values:
            if value in listed:
                continue
            model = models.get((title, name, str(value)))
            if model is not None:
                yield _missing_model(model, class_type, name, listed)
            else:
                yield MissingPart(
                    kind="input",
                    name=f"{class_type}.{name}={value}",
                    detail=f'The engine\'s {class_type} does not list "{value}" for {name} (for '
                    f'"{title}"). It lists: {", ".join(map(str, listed)) or "nothing"}.',
                )


def _missing_model(model: ModelFile, class_type: str, name: str, listed: list[Any]) -> MissingPart:
    detail = (
        f"The engine's {class_type} does not list {model.file} for {name}. It belongs into "
        f"models/{model.folder} and comes from {model.repository} ({model.path})."
    )
    if not model.verified.name:
        detail += " Its exact name follows a pattern and was not seen: check it in the repository."
    elsewhere = next(
        (
            str(entry)
            for entry in listed
            if str(entry).replace("\\", "/").endswith(f"/{model.file}")
        ),
        None,
    )
    if elsewhere is not None:
        detail += f" It is listed as {elsewhere}: move it out of its subfolder."
    elif model.file.endswith(".onnx") and not any(str(e).endswith(".onnx") for e in listed):
        detail += f" {_ONNX_TRAP}"
    else:
        detail += " Download it with `steadydancer models download`."
    return MissingPart(kind="model", name=model.file, detail=detail)
