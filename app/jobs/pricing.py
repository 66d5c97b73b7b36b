"""What a request needs of the engines and their cards, and whether any of them can run it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlmodel import Session, col

from app.errors import FieldError, NeverFits, PayloadTooLarge, WorkflowUnavailable
from app.gpu.admission import never
from app.gpu.estimate import Estimator, Need, ShapeLike, shape_key
from app.jobs.stager import oversized
from app.jobs.states import Status
from app.jobs.stations import Stations
from app.jobs.tables import Job
from app.workflows.fit import nearest_fit
from app.workflows.values import Resolved
from app.workflows.workflow import Workflow


@dataclass(frozen=True, slots=True)
class Price:
    """What a request needs of a card.

    Attributes:
        need_mib: Expected peak of the engine's process.
        learned: Whether such a run was measured.
        fits: Whether a card can ever hold it; None while no card is read.
        card_mib: What the largest card can give at most; None while no card is read.
        refusal: Why it never fits, where it does not.
        card: Product name of that card.
    """

    need_mib: int
    learned: bool
    fits: bool | None = None
    card_mib: int | None = None
    refusal: str | None = None
    card: str | None = None


class Pricing:
    """Judges requests by all engines together."""

    def __init__(self, stations: Stations, estimator: Estimator) -> None:
        self._stations = stations
        self._estimator = estimator

    def price(self, workflow: Workflow, resolved: Resolved) -> Price:
        """What a request needs, judged by the card that has most to give."""
        formula = workflow.estimate_mib(resolved)
        best = Price(formula, learned=False)
        for engine in self._stations.look():
            if engine.reading is None or engine.capacity_mib is None:
                if engine.reads_card:
                    # A card that cannot be read now may yet be large enough.
                    return Price(formula, learned=False)
                continue
            if best.card_mib is None or engine.capacity_mib > best.card_mib:
                need = self._need(resolved.shape, formula, engine.reading.name)
                too_large = never(need.mib, engine.reading, engine.margin_mib)
                best = Price(
                    need.mib,
                    need.learned,
                    too_large is None,
                    engine.capacity_mib,
                    too_large.detail if too_large is not None else None,
                    engine.reading.name,
                )
        return best

    def _need(self, shape: ShapeLike, formula_mib: int, card: str) -> Need:
        return self._estimator.need(shape_key(shape, card=card), formula_mib=formula_mib)

    def must_run(self, workflow: Workflow) -> None:
        """Refuse a workflow that every engine lacks something for.

        An engine that was never seen may have everything.

        Raises:
            WorkflowUnavailable: With the names of what is missing.
        """
        seen = [engine.missing.get(workflow.name) for engine in self._stations.look()]
        lacking = [parts for parts in seen if parts]
        if not seen or len(lacking) < len(seen):
            return
        parts = min(lacking, key=len)
        listed = "; ".join(part.detail for part in parts)
        raise WorkflowUnavailable(
            f'The workflow "{workflow.name}" cannot run here: {listed}',
            errors=[FieldError("/workflow", part.detail) for part in parts],
            missing=[part.model_dump() for part in parts],
        )

    def upload_limit(self) -> int | None:
        """The largest file that any engine takes; None while one of them has not said so."""
        limits = [engine.max_upload_bytes for engine in self._stations.look()]
        known = [limit for limit in limits if limit is not None]
        return max(known) if known and len(known) == len(limits) else None

    def must_fit(self, workflow: Workflow, resolved: Resolved) -> None:
        """Refuse a request that no card can hold.

        Raises:
            NeverFits: With the nearest settings that would fit.
        """
        price = self.price(workflow, resolved)
        card = price.card
        if price.fits is not False or price.card_mib is None or card is None:
            return
        fits = nearest_fit(
            workflow,
            resolved,
            price.card_mib,
            estimate=lambda shape, formula: self._need(shape, formula, card).mib,
        )
        words = "; or ".join(fit.detail for fit in fits)
        advice = f" What would fit: {words}." if fits else " No settings of this workflow fit."
        changed = {name for fit in fits for name in fit.changes}
        raise NeverFits(
            f"{price.refusal}{advice}",
            errors=[
                FieldError(f"/request/{name}", f"{name} is {resolved.request.get(name)}: {words}.")
                for name in sorted(changed)
            ],
            need_mib=price.need_mib,
            card_mib=price.card_mib,
            fits=[
                {"overrides": workflow.superseding(fit.changes), "need_mib": fit.need_mib}
                for fit in fits
                if fit.changes
            ],
        )


def must_be_taken(
    session: Session, inputs: Mapping[str, str], resolved: Resolved, *, limit_bytes: int | None
) -> None:
    """Refuse media of which it is known that they become larger than any engine takes.

    Args:
        session: The open transaction.
        inputs: Media field to upload.
        resolved: The request.
        limit_bytes: The largest file that an engine takes; None where it is not known.

    Raises:
        PayloadTooLarge: With the fields and both figures.
    """
    if limit_bytes is None:
        return
    large = oversized(session, inputs, resolved.media_plan, limit_bytes=limit_bytes)
    faults = [
        FieldError(
            f"/request/{name}",
            f"{name} has {size:,} bytes as ComfyUI would get it, and ComfyUI takes "
            f"{limit_bytes:,}. Send a smaller file, or have its --max-upload-size raised.",
        )
        for name, size in large.items()
    ]
    if faults:
        raise PayloadTooLarge(" ".join(fault.detail for fault in faults), errors=faults)


def ahead(session: Session) -> int:
    """How many jobs a new one of normal priority would wait for."""
    query = sa.select(sa.func.count()).where(
        col(Job.status) == Status.QUEUED, col(Job.priority) >= 0
    )
    return int(session.execute(query).scalar_one())
