"""One installed workflow: what it asks for, what a request comes to, and the graph that runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from app.wire import MediaFacts, MediaRef
from app.workflows import binding
from app.workflows.inputs import Inputs
from app.workflows.manifest import Manifest, ModelFile, Scalar, holds
from app.workflows.rules import Rules
from app.workflows.values import Expectation, NodeShare, Resolved, Shape
from app.workflows.vram import need_mib

_REST_SHARE = 0.01
"""Part of a run that the nodes get that belong to no phase."""


class Workflow:
    """A workflow with the operator's options applied. Immutable; nothing here does I/O."""

    def __init__(
        self,
        *,
        name: str,
        manifest: Manifest,
        graph: Mapping[str, Any],
        rules: Rules,
        operator: Mapping[str, Scalar],
        inputs: Inputs | None = None,
    ) -> None:
        self.name = name
        self.manifest = manifest
        self.graph = graph
        self.rules = rules
        self.operator: Mapping[str, Scalar] = dict(operator)
        self._inputs = inputs or Inputs(name=name, manifest=manifest)
        self._ids = binding.ids_by_title(graph)

    # --- what it is ----------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """Title for people."""
        return self.manifest.title

    @property
    def description(self) -> str:
        """What it makes of what."""
        return self.manifest.description

    @property
    def variant(self) -> str | None:
        """Name of the operator's variant; None where the workflow has none."""
        chosen = self.operator.get("variant")
        return chosen if isinstance(chosen, str) else None

    @property
    def media(self) -> dict[str, Literal["image", "video"]]:
        """Media fields and their kinds."""
        return {name: spec.kind for name, spec in self.manifest.media.items()}

    @property
    def models(self) -> tuple[ModelFile, ...]:
        """The model files that the operator's options need."""
        options = self.options()
        return tuple(model for model in self.manifest.models if holds(model.needed, options))

    @property
    def models_key(self) -> str:
        """What its jobs load, whatever they ask for, as one text; empty where it has no models."""
        return f"{self.name}/{self.variant or 'default'}" if self.manifest.models else ""

    @property
    def all_models(self) -> tuple[ModelFile, ...]:
        """The model files of every variant."""
        return self.manifest.models

    def options(self, *, low_memory: bool = False) -> dict[str, Scalar]:
        """Every operator option with its value: default, variant, operator, low memory."""
        values = {**self._base_options(), **self.operator}
        return values | self.manifest.low_memory.options if low_memory else values

    def _base_options(self) -> dict[str, Scalar]:
        values: dict[str, Scalar] = {
            name: spec.default
            for name, spec in self.manifest.options.items()
            if spec.default is not None
        }
        return values | (self.manifest.variants[self.variant].options if self.variant else {})

    def with_options(self, **changes: Scalar) -> Workflow:
        """The same workflow under other operator options."""
        return Workflow(
            name=self.name,
            manifest=self.manifest,
            graph=self.graph,
            rules=self.rules,
            operator={**self.operator, **changes},
            inputs=self._inputs,
        )

    # --- requests ------------------------------------------------------------------------------

    def schema(self) -> dict[str, Any]:
        """JSON Schema of the request."""
        return self._inputs.schema()

    def defaults(self) -> dict[str, Any]:
        """Every field that has a value when none is given and nothing is known of the media."""
        settled = self.rules.settle({}, {})
        return {name: value for name, value in settled.values.items() if value is not None}

    def media_refs(
        self, request: Mapping[str, Any], *, attached: Collection[str] = ()
    ) -> dict[str, MediaRef]:
        """Where each media file is to be taken from.

        Args:
            request: The request as sent.
            attached: Media fields that came as files beside it.

        Raises:
            InvalidRequest: A media file is missing, given twice or in no known form.
        """
        return self._inputs.refs(request, attached=attached)

    def merge(self, request: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
        """An earlier resolved request with some fields changed, to be resolved again.

        A field that is set takes the place of those it supersedes: a preset that of width and
        height, a mode that of steps, cfg, shift and scheduler. Null goes back to the default.
        """
        return self.rules.merge(request, overrides)

    def superseding(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Changes with null for the fields that they supersede.

        So they can be put over a request as it was sent, where such a field beside them is refused.
        """
        fields = self.manifest.fields
        cleared = {other: None for name in changes for other in fields[name].supersedes}
        return {**cleared, **changes}

    def resolve(
        self, request: Mapping[str, Any], media: Mapping[str, MediaFacts], *, seed: int
    ) -> Resolved:
        """Make every choice of a request.

        Args:
            request: The request; its media fields are not looked at.
            media: What probing found, as far as it is known. With nothing known, defaults are
                taken, so that a request can be priced and rendered before its media arrive.
            seed: Seed to use where the request gives none, 0 to 2^53-1.

        Raises:
            InvalidRequest: A field breaks a rule, or fields contradict one another or the media;
                each with a pointer under `/request/`.
        """
        given = self._inputs.check(request)
        if "seed" in self.manifest.fields:
            given.setdefault("seed", seed)
        settled = self.rules.settle(given, media)
        values = {name: value for name, value in settled.values.items() if value is not None}
        frames = values.get("frames")
        return Resolved(
            request=values,
            warnings=tuple(settled.warnings),
            shape=self.shape_of(values),
            steps=int(values.get("steps", 0)),
            media_plan=self.rules.media_plan(values),
            expects=Expectation(
                width=values.get("width"),
                height=values.get("height"),
                frames=None if frames is None else frames + self.manifest.extra_frames,
                fps=None if values.get("fps") is None else float(values["fps"]),
            ),
        )

    # --- memory --------------------------------------------------------------------------------

    def shape_of(self, request: Mapping[str, Any], *, low_memory: bool = False) -> Shape:
        """The key under which peaks of such a run are learned."""
        base = self._base_options()
        parts = [self.variant or "default"]
        parts += [
            f"{name}={value}"
            for name, value in sorted(self.operator.items())
            if name != "variant" and value != base.get(name)
        ]
        parts += [str(request[name]) for name in self.manifest.shape_fields if name in request]
        parts += ["low"] if low_memory else []
        return Shape(
            workflow=self.name,
            variant="+".join(parts),
            width=int(request.get("width", 0)),
            height=int(request.get("height", 0)),
            frames=int(request.get("frames", 0)),
        )

    def estimate_mib(self, resolved: Resolved, *, low_memory: bool = False) -> int:
        """Peak of the engine's whole process in MiB, by the manifest's formula."""
        options = self.options(low_memory=low_memory)
        weights = self.manifest.variants[self.variant].weights_mib if self.variant else 0
        return need_mib(
            self.manifest.vram,
            {**options, **resolved.request},
            weights_mib=weights,
            width=resolved.shape.width,
            height=resolved.shape.height,
            frames=resolved.shape.frames,
        )

    def work(self, resolved: Resolved) -> float:
        """How much a run has to compute, in steps times pixels.

        Seconds per unit, learned from other runs, give a first estimate for a shape never run.
        """
        return self.rules.work(resolved.request)

    # --- the graph -----------------------------------------------------------------------------

    def render(
        self,
        request: Mapping[str, Any],
        files: Mapping[str, str],
        *,
        prefix: str,
        low_memory: bool = False,
    ) -> binding.Graph:
        """Make the graph of one attempt. Pure.

        Args:
            request: `Resolved.request`.
            files: Media field to the name under which the engine has the prepared file.
            prefix: Start of the names of the files that the attempt writes.
            low_memory: Use the low-memory settings.
        """
        return binding.render(
            self.graph,
            self.manifest,
            values={**self.options(low_memory=low_memory), **request},
            derived=self.rules.derived(request),
            files=files,
            prefix=prefix,
        )

    def outputs(self, graph: Mapping[str, Any]) -> dict[str, str]:
        """Artifact name to the id of the node that writes it, in a rendered graph."""
        found = {name: self._ids[spec.node] for name, spec in self.manifest.outputs.items()}
        return {name: node_id for name, node_id in found.items() if node_id in graph}

    def output_files(self, name: str, *, prefix: str) -> tuple[str, ...]:
        """Names that an attempt's output may have in the engine's folder, best first."""
        spec = self.manifest.outputs[name]
        return tuple(file.replace("{prefix}", prefix + spec.suffix) for file in spec.files)

    def shares(self, graph: Mapping[str, Any]) -> dict[str, NodeShare]:
        """Phase and part of the whole run for each node of a rendered graph, by id."""
        titles = {node_id: binding.title_of(node) for node_id, node in graph.items()}
        found: dict[str, NodeShare] = {}
        total = 0.0
        for phase, spec in self.manifest.phases.items():
            members = [node_id for node_id, title in titles.items() if title in spec.nodes]
            for node_id in members:
                found[node_id] = NodeShare(titles[node_id], phase, spec.share / len(members))
            total += spec.share if members else 0.0
        rest = [node_id for node_id in titles if node_id not in found]
        small = (total or 1.0) * _REST_SHARE / (len(rest) or 1)
        for node_id in rest:
            found[node_id] = NodeShare(titles[node_id], "loading", small)
        whole = sum(share.share for share in found.values())
        return {
            node_id: NodeShare(share.title, share.phase, share.share / whole)
            for node_id, share in found.items()
        }
