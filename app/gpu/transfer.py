"""What was learned, taken from one machine to another, and forgotten: `steadydancer vram`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from pydantic import AwareDatetime, BaseModel, ConfigDict, PositiveInt, ValidationError
from sqlmodel import Session, col, select

from app.gpu.tables import SampleSource, VramSample


class SampleRow(BaseModel):
    """One sample in an export file. A table model does not validate; this does."""

    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True)

    workflow: str
    variant: str
    width: PositiveInt
    height: PositiveInt
    frames: PositiveInt
    card: str
    card_mib: PositiveInt
    peak_mib: PositiveInt
    oom: bool
    source: SampleSource
    at: AwareDatetime


def _rows(session: Session) -> list[SampleRow]:
    samples = session.exec(select(VramSample).order_by(col(VramSample.id)))
    return [SampleRow.model_validate(sample) for sample in samples]


def export_samples(session: Session) -> list[dict[str, Any]]:
    """All samples as JSON-able rows, for `import_samples` on another machine."""
    return [row.model_dump(mode="json") for row in _rows(session)]


def import_samples(session: Session, rows: Iterable[Mapping[str, Any]]) -> int:
    """Add exported samples and say how many. Importing the same rows again adds nothing.

    Raises:
        ValueError: A row is not what `export_samples` writes; nothing is kept then.
    """
    known = set(_rows(session))
    added = 0
    for number, raw in enumerate(rows):
        try:
            row = SampleRow.model_validate(raw)
        except ValidationError as error:
            raise ValueError(f"Row {number} is not an exported sample: {error}") from error
        if row not in known:
            known.add(row)
            session.add(VramSample(**row.model_dump()))
            added += 1
    return added


def reset(session: Session, *, workflow: str | None = None) -> int:
    """Forget what was learned, of one workflow or of all, and say how many samples went."""
    query = sa.delete(VramSample)
    if workflow is not None:
        query = query.where(col(VramSample.workflow) == workflow)
    return int(session.connection().execute(query).rowcount)
