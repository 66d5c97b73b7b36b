"""What a request needs of the engines and their cards, and whether any of them can run it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlmodel import Session, col

from app.errors import FieldError, NeverFits, WorkflowUnavailable
from app.gpu.admission import never
from app.jobs.dispatcher import Dispatcher
from app.jobs.gate import Gate
from app.jobs.states import Status
from app.jobs.tables import Job
from app.workflows.fit import nearest_fit
from app.workflows.values import Resolved
from app.workflows.workflow import Workflow


@dataclass(frozen=True, slots=True)
class Station:
    """One engine with what gives it work: its dispatcher, and the gate of its card."""

    dispatcher: Dispatcher
    gate: Gate


@dataclass(frozen=True, slots=True)
class Price:
    """What a request needs of a card.

    Attributes:
        need_mib: Expected peak of the engine's process.
        learned: Whether such a run was measured.
        fits: Whether a card can ever hold it; None while no card is read.
        card_mib: What the largest card can give at most; None while no card is read.
        refusal: Why it never fits, where it does not.
        gate: The gate of that card.
    """

    need_mib: int
    learned: bool
    fits: bool | None = None
    card_mib: int | None = None
    refusal: str | None = None
    gate: Gate | None = None


class Pricing:
    """Judges requests by all engines together."""

    def __init__(self, stations: Sequence[Station]) -> None:
        self._stations = stations

    def price(self, workflow: Workflow, resolved: Resolved) -> Price:
        """What a request needs, judged by the card that has most to give."""
        formula = workflow.estimate_mib(resolved)
        best = Price(formula, learned=False)
        for station in self._stations:
            gate = station.gate
            reading, capacity = gate.monitor.last, gate.monitor.capacity_mib
            if reading is None or capacity is None:
                if gate.monitor.enabled:
                    # A card that cannot be read now may yet be large enough.
                    return Price(formula, learned=False)
                continue
            if best.card_mib is None or capacity > best.card_mib:
                need = gate.need(resolved.shape.key, formula)
                too_large = never(need.mib, reading, gate.monitor.margin_mib)
                best = Price(
                    need.mib,
                    need.learned,
                    too_large is None,
                    capacity,
                    too_large.detail if too_large is not None else None,
                    gate,
                )
        return best

    def must_run(self, workflow: Workflow) -> None:
        """Refuse a workflow that every engine lacks something for.

        An engine that was never seen may have everything.

        Raises:
            WorkflowUnavailable: With the names of what is missing.
        """
        seen = [station.dispatcher.engine.missing.get(workflow.name) for station in self._stations]
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

    def must_fit(self, workflow: Workflow, resolved: Resolved) -> None:
        """Refuse a request that no card can hold.

        Raises:
            NeverFits: With the nearest settings that would fit.
        """
        price = self.price(workflow, resolved)
        gate = price.gate
        if price.fits is not False or price.card_mib is None or gate is None:
            return
        fits = nearest_fit(
            workflow,
            resolved,
            price.card_mib,
            estimate=lambda shape, formula: gate.need(shape.key, formula).mib,
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


def ahead(session: Session) -> int:
    """How many jobs a new one of normal priority would wait for."""
    query = sa.select(sa.func.count()).where(
        col(Job.status) == Status.QUEUED, col(Job.priority) >= 0
    )
    return int(session.execute(query).scalar_one())
