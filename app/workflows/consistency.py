"""Whether a manifest fits its graph and itself. Every fault names the file and the key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from app.workflows.binding import title_of
from app.workflows.inputs import build_model, explain
from app.workflows.manifest import FieldSpec, Manifest, ManifestError, Scalar


class _Checker:
    def __init__(self, file: Path, manifest: Manifest, graph: Mapping[str, Any]) -> None:
        self.file = file
        self.manifest = manifest
        self.nodes = {title_of(node): node for node in graph.values()}
        self.names = {*manifest.fields, *manifest.options}

    def fail(self, key: str, problem: str) -> ManifestError:
        return ManifestError(self.file, key, problem)

    def node(self, key: str, title: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] | None = self.nodes.get(title)
        if found is None:
            raise self.fail(key, f'graph.json has no node with the title "{title}"')
        return found

    def targets(self, key: str, targets: Iterable[tuple[str, str]]) -> None:
        """Titles and inputs that must be in the graph."""
        for title, name in targets:
            if name not in self.node(key, title)["inputs"]:
                raise self.fail(key, f'the node "{title}" has no input "{name}" in graph.json')

    def condition(self, key: str, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.names:
                raise self.fail(key, f'"{name}" is neither a field nor an option')

    def values(self, key: str, specs: Mapping[str, FieldSpec], given: Mapping[str, Any]) -> None:
        """Values that must be allowed by their specs."""
        for name, value in given.items():
            if name not in specs:
                known = ", ".join(specs) or "none"
                raise self.fail(f"{key}.{name}", f"there is no such option; there are: {known}")
            one = {name: specs[name]}
            try:
                build_model("Value", one).model_validate({name: value})
            except ValidationError:
                raise self.fail(f"{key}.{name}", explain(name, specs[name], value)) from None


def check_manifest(
    file: Path, manifest: Manifest, graph: Mapping[str, Any], *, operator: Mapping[str, Scalar]
) -> None:
    """Hold a manifest against its graph and itself.

    Raises:
        ManifestError: The first fault that is found.
    """
    check = _Checker(file, manifest, graph)
    options = dict(manifest.options)
    if both := manifest.fields.keys() & manifest.options.keys():
        raise check.fail(f"options.{min(both)}", "a field has the same name")
    if clash := manifest.fields.keys() & manifest.media.keys():
        raise check.fail(f"fields.{min(clash)}", "a media field has the same name")
    for name, spec in manifest.fields.items():
        _check_field(check, f"fields.{name}", name, spec)
    for name, spec in options.items():
        _check_field(check, f"options.{name}", name, spec)
    _check_nodes(check)
    _check_rules(check)
    for name in manifest.shape_fields:
        check.condition("shape_fields", [name])
    check.values("low_memory.options", options, manifest.low_memory.options)
    _check_variants(check, options, operator)


def _check_nodes(check: _Checker) -> None:
    """Titles and inputs outside fields, options and rules."""
    manifest = check.manifest
    for name, media in manifest.media.items():
        check.targets(f"media.{name}.bind", media.bind)
    for name, targets in manifest.derived.items():
        check.targets(f"derived.{name}", targets)
    for name, output in manifest.outputs.items():
        check.targets(f"outputs.{name}", [(output.node, output.prefix_input)])
    if "video" not in manifest.outputs:
        raise check.fail("outputs", "an output with the name video is needed")
    for phase, spec in manifest.phases.items():
        for title in spec.nodes:
            check.node(f"phases.{phase}", title)
    for index, model in enumerate(manifest.models):
        key = f"models.{index} ({model.file})"
        check.targets(key, model.listed)
        check.condition(key, model.needed)
    for index, term in enumerate(manifest.vram.terms):
        check.condition(f"vram.terms.{index}", term.when)


def _check_field(check: _Checker, key: str, name: str, spec: FieldSpec) -> None:
    check.targets(f"{key}.bind", spec.bind)
    for other in spec.supersedes:
        if other not in check.manifest.fields:
            raise check.fail(f"{key}.supersedes", f'there is no field "{other}"')
    if spec.choices is not None and spec.type != "string":
        raise check.fail(f"{key}.choices", "only a string can have choices")
    for choice in spec.values:
        if spec.choices is None or choice not in spec.choices:
            raise check.fail(f"{key}.values", f'"{choice}" is none of the choices')
    for part in ("default", "example"):
        value = getattr(spec, part)
        if value is not None:
            try:
                check.values(key, {name: spec}, {name: value})
            except ManifestError as error:
                raise check.fail(f"{key}.{part}", error.problem) from None


def _check_rules(check: _Checker) -> None:
    manifest = check.manifest
    outputs = {output.node for output in manifest.outputs.values()}
    for index, rule in enumerate(manifest.rule):
        key = f"when.{index}"
        check.condition(f"{key}.if", rule.when)
        check.targets(f"{key}.set", [(title, name) for title, name, _ in rule.set])
        check.targets(f"{key}.unlink", rule.unlink)
        for title, _, source, _ in rule.link:
            check.node(f"{key}.link", title)
            check.node(f"{key}.link", source)
        for title in rule.drop:
            if title not in outputs:
                raise check.fail(f"{key}.drop", f'"{title}" is not the node of an output')


def _check_variants(
    check: _Checker, options: Mapping[str, FieldSpec], operator: Mapping[str, Scalar]
) -> None:
    variants = check.manifest.variants
    for name, variant in variants.items():
        check.values(f"variants.{name}.options", options, variant.options)
    chosen = operator.get("variant")
    if variants and chosen not in variants:
        known = ", ".join(variants)
        raise check.fail("operator.variant", f'"{chosen}" is no variant; there are: {known}')
    spec = options.get("variant")
    if variants and (spec is None or set(spec.choices or ()) != set(variants)):
        raise check.fail("options.variant", "its choices must be the names of the variants")
    check.values("operator", options, operator)
