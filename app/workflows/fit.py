"""What would fit a card that a request does not fit. Computed, never a canned advice."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from app.errors import InvalidRequest
from app.workflows.manifest import Scalar
from app.workflows.values import Fit, Resolved, Shape
from app.workflows.workflow import Workflow

Estimate: TypeAlias = Callable[[Shape, int], int]
"""Shape and the formula's figure in MiB to the need in MiB, which may have been learned."""


def by_formula(shape: Shape, formula_mib: int) -> int:
    """The estimate where nothing was learned."""
    del shape
    return formula_mib


def nearest_fit(
    workflow: Workflow, resolved: Resolved, limit_mib: int, estimate: Estimate = by_formula
) -> tuple[Fit, ...]:
    """Settings near a request's that need at most `limit_mib`, at most one of each kind.

    First what the person can change (fewer frames, a smaller size; both together where neither is
    enough), then what the operator can (low-memory settings, another variant). Empty where nothing
    helps.

    Args:
        workflow: The workflow of the request.
        resolved: The request that does not fit.
        limit_mib: What the card has for the engine, safety margin taken off.
        estimate: Figure of the formula to the figure that admission uses.
    """

    def fit(changes: dict[str, Scalar]) -> Fit | None:
        need = _need(workflow, resolved, changes, estimate)
        if need is None or need > limit_mib:
            return None
        return Fit(changes, {}, need, _words(changes, need))

    found: dict[str, Fit] = {}
    ways: dict[str, list[dict[str, Scalar]]] = {}
    for changes in workflow.rules.smaller(resolved.request):
        kind = ",".join(changes)
        ways.setdefault(kind, []).append(changes)
        if kind not in found and (one := fit(changes)) is not None:
            found[kind] = one
    if not found and len(ways) == 2 and (both := _together(list(ways.values()), fit)) is not None:
        found["together"] = both
    for kind, options in _operator_changes(workflow):
        if kind in found:
            continue
        other = workflow.with_options(**options)
        formula = other.estimate_mib(resolved)
        need = estimate(other.shape_of(resolved.request), formula)
        if need <= limit_mib:
            detail = f"as operator: {_words(options, need)}"
            found[kind] = Fit({}, options, need, detail)
    return tuple(found.values())


def _together(
    ways: Sequence[Sequence[dict[str, Scalar]]], fit: Callable[[dict[str, Scalar]], Fit | None]
) -> Fit | None:
    """The fewest steps along two ways that fit, counted along each as a share of its length."""
    fine, coarse = ways
    best: tuple[float, Fit] | None = None
    for far, step in enumerate(coarse):
        # More steps never need more memory, so the first that is enough is found by halves.
        near = bisect_left(fine, True, key=lambda one, step=step: fit(one | step) is not None)  # type: ignore[misc]
        found = fit(fine[near] | step) if near < len(fine) else None
        distance = near / len(fine) + far / len(coarse)
        if found is not None and (best is None or distance < best[0]):
            best = distance, found
    return None if best is None else best[1]


def _need(
    workflow: Workflow, resolved: Resolved, changes: dict[str, Scalar], estimate: Estimate
) -> int | None:
    try:
        smaller = workflow.resolve(workflow.merge(resolved.request, changes), {}, seed=0)
    except InvalidRequest:
        return None
    return estimate(smaller.shape, workflow.estimate_mib(smaller))


def _operator_changes(workflow: Workflow) -> Iterator[tuple[str, dict[str, Scalar]]]:
    """Changes of operator options: low-memory settings, then variants, the heaviest first."""
    low = {
        name: value
        for name, value in workflow.manifest.low_memory.options.items()
        if workflow.options()[name] != value
    }
    if low:
        yield "low", low
    own = workflow.manifest.variants.get(workflow.variant or "")
    if own is None:
        return
    lighter = [
        (variant.weights_mib, name)
        for name, variant in workflow.manifest.variants.items()
        if variant.weights_mib < own.weights_mib
    ]
    for _, name in sorted(lighter, reverse=True):
        yield "variant", {"variant": name}
    for _, name in sorted(lighter, reverse=True):
        yield "variant", {"variant": name, **workflow.manifest.low_memory.options}


def _words(changes: dict[str, Scalar], need_mib: int) -> str:
    size = {"width", "height"} & set(changes)
    words = [f"{name} {value}" for name, value in changes.items() if name not in size]
    if len(size) == 2:
        words.append(f"{changes['width']} x {changes['height']}")
    return f"{', '.join(words)} (needs {need_mib:,} MiB)"
