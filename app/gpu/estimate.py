"""How much memory a job will need: a formula until the shape was seen, then what was seen."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Protocol

import sqlalchemy as sa
from sqlmodel import Session, col, select

from app.database import Database
from app.errors import StoreUnavailable
from app.gpu.card import Reading
from app.gpu.tables import SampleSource, VramSample

RECENT = 20
"""The learned figure is the highest of so many newest samples of a shape."""

OOM_PERCENT = 115
"""A run that ran out of memory needs more than it had; so much of it is assumed."""

_MARGIN_PERCENT = 3
_MARGIN_FLOOR_MIB = 128


class ShapeLike(Protocol):
    """What of a request decides its memory; `app.workflows` has one."""

    @property
    def workflow(self) -> str: ...  # pragma: no cover
    @property
    def variant(self) -> str: ...  # pragma: no cover
    @property
    def width(self) -> int: ...  # pragma: no cover
    @property
    def height(self) -> int: ...  # pragma: no cover
    @property
    def frames(self) -> int: ...  # pragma: no cover


@dataclass(frozen=True, slots=True)
class ShapeKey:
    """Runs with the same key take the same memory. The number of steps does not matter.

    Attributes:
        variant: With all that changes the need besides the size, low-memory settings too.
        card: Product name of the card: ComfyUI uses more where there is more.
    """

    workflow: str
    variant: str
    width: int
    height: int
    frames: int
    card: str


def shape_key(shape: ShapeLike, *, card: str) -> ShapeKey:
    """The key of a shape on a card.

    Args:
        shape: What of the request decides its memory.
        card: `Reading.name`.
    """
    return ShapeKey(shape.workflow, shape.variant, shape.width, shape.height, shape.frames, card)


@dataclass(frozen=True, slots=True)
class Need:
    """Expected peak of ComfyUI's whole process, in MiB.

    Attributes:
        mib: The figure that admission uses.
        learned: True if it was seen, False if it is the formula's.
        ran_out: Whether a run of this shape ran out of memory lately: the figure is a guess then.
    """

    mib: int
    learned: bool
    ran_out: bool = False


@dataclass(frozen=True, slots=True)
class Learned:
    """What is known of one shape on one kind of card.

    Attributes:
        key: The shape.
        samples: How many samples the figure comes from.
        peak_mib: Highest peak among them.
        ooms: How many of them ran out of memory.
        need_mib: What admission uses: peak and margin, raised where memory ran out.
        last_at: Time of the newest sample.
    """

    key: ShapeKey
    samples: int
    peak_mib: int
    ooms: int
    need_mib: int
    last_at: datetime


def figure(samples: Sequence[VramSample]) -> int:
    """The need that samples of one shape stand for, in MiB.

    The highest peak plus 3 % (128 MiB at least). A run out of memory stands for `OOM_PERCENT`
    of what it had, but for no more than the card has: one accident, such as another process
    that took the memory in mid-run, must not close the card to the shape for good.
    """
    figures = []
    for sample in samples:
        if sample.oom:
            figures.append(max(sample.peak_mib, min(_raised(sample.peak_mib), sample.card_mib)))
        else:
            margin = max(_MARGIN_FLOOR_MIB, sample.peak_mib * _MARGIN_PERCENT // 100)
            figures.append(sample.peak_mib + margin)
    return max(figures)


def _raised(peak_mib: int) -> int:
    return peak_mib * OOM_PERCENT // 100


# --- plain functions for inside a transaction ------------------------------------------------


def _matches(key: ShapeKey) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        col(VramSample.workflow) == key.workflow,
        col(VramSample.variant) == key.variant,
        col(VramSample.width) == key.width,
        col(VramSample.height) == key.height,
        col(VramSample.frames) == key.frames,
        col(VramSample.card) == key.card,
    )


def _key_of(sample: VramSample) -> ShapeKey:
    return shape_key(sample, card=sample.card)


def record(
    session: Session,
    key: ShapeKey,
    *,
    peak_mib: int,
    card_mib: int,
    oom: bool,
    source: SampleSource,
    attempt_id: str | None,
    at: datetime,
) -> None:
    """Store one attempt's peak and drop samples of the shape that are too old to count.

    Args:
        session: A write transaction.
        key: The shape that ran.
        peak_mib: For a run out of memory: what it had when it failed.
        card_mib: What processes could have on the card at most, the margin taken off.
        oom: Whether the run ran out of memory.
        source: How the peak was measured.
        attempt_id: The attempt.
        at: When it ended.
    """
    session.add(
        VramSample(
            **asdict(key),
            peak_mib=peak_mib,
            card_mib=card_mib,
            oom=oom,
            source=source,
            attempt_id=attempt_id,
            at=at,
        )
    )
    session.flush()
    newest = (
        select(VramSample.id)
        .where(*_matches(key))
        .order_by(col(VramSample.id).desc())
        .limit(RECENT)
    )
    session.execute(sa.delete(VramSample).where(*_matches(key), col(VramSample.id).not_in(newest)))


def summary(session: Session, *, workflow: str | None = None) -> list[Learned]:
    """Everything learned, ordered by workflow, variant and size; what the operator sees."""
    query = select(VramSample).order_by(col(VramSample.id))
    if workflow is not None:
        query = query.where(col(VramSample.workflow) == workflow)
    groups: dict[ShapeKey, list[VramSample]] = {}
    for sample in session.exec(query):
        groups.setdefault(_key_of(sample), []).append(sample)
    found = [
        Learned(
            key=key,
            samples=len(samples),
            peak_mib=max(sample.peak_mib for sample in samples),
            ooms=sum(sample.oom for sample in samples),
            need_mib=figure(samples[-RECENT:]),
            last_at=samples[-1].at,
        )
        for key, samples in groups.items()
    ]
    return sorted(found, key=lambda one: tuple(asdict(one.key).values()))


def learned(session: Session, key: ShapeKey) -> Need | None:
    """The need that was learned for a shape; None if it was never seen."""
    query = (
        select(VramSample).where(*_matches(key)).order_by(col(VramSample.id).desc()).limit(RECENT)
    )
    samples = session.exec(query).all()
    return _need(samples) if samples else None


def _need(samples: Sequence[VramSample]) -> Need:
    return Need(figure(samples), learned=True, ran_out=any(sample.oom for sample in samples))


# --- the figure that admission polls ---------------------------------------------------------


class Estimator:
    """Needs from memory: admission asks at every look at the queue, so no query is made.

    Another process (`steadydancer vram import`, `reset`) may change the rows; `run` follows.
    """

    def __init__(self, *, database: Database, margin_mib: int) -> None:
        self._database = database
        self._margin_mib = margin_mib
        self._learned: dict[ShapeKey, Need] = {}

    async def refresh(self) -> None:
        """Read everything learned from the store."""
        found = await self._database.read(summary)
        self._learned = {
            one.key: Need(one.need_mib, learned=True, ran_out=one.ooms > 0) for one in found
        }

    async def run(self, *, every_seconds: float = 30.0) -> None:
        """Refresh for as long as the gateway runs. A store that cannot be read changes nothing."""
        while True:
            await asyncio.sleep(every_seconds)
            with suppress(StoreUnavailable):
                await self.refresh()

    def need(self, key: ShapeKey, *, formula_mib: int) -> Need:
        """The need of a shape: learned where it was seen, else the formula's figure."""
        return self._learned.get(key) or Need(formula_mib, learned=False)

    async def learn(
        self,
        key: ShapeKey,
        *,
        peak_mib: int,
        reading: Reading,
        source: SampleSource,
        attempt_id: str,
        at: datetime,
        oom: bool = False,
    ) -> Need:
        """Store what one attempt took; gives the need that now stands for the shape.

        Only for attempts that ran to their end or out of memory: a canceled one has not shown its
        peak. For a run out of memory `peak_mib` is the larger of the peak seen and the need that
        it was admitted on, because that much was not enough.

        Args:
            key: The shape that ran, with the name of the card that it ran on.
            peak_mib: Highest memory of ComfyUI's whole process.
            reading: The card.
            source: How the peak was measured.
            attempt_id: The attempt.
            at: When it ended, UTC.
            oom: Whether it ran out of memory.
        """

        def store(session: Session) -> Need | None:
            record(
                session,
                key,
                peak_mib=peak_mib,
                card_mib=reading.capacity_mib - self._margin_mib,
                oom=oom,
                source=source,
                attempt_id=attempt_id,
                at=at,
            )
            return learned(session, key)

        need = await self._database.write(store, durable=False)
        if need is None:
            raise AssertionError("a sample was stored and is not there")
        self._learned[key] = need
        return need
