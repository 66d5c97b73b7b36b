"""Pages of a list of jobs, each read in the order of an index. Writes nothing."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Session, SQLModel

from app import wire
from app.errors import FieldError, InvalidRequest
from app.jobs import views
from app.jobs.states import Status

_JOB = SQLModel.metadata.tables["job"]
_LABEL = SQLModel.metadata.tables["job_label"]

_HIGHEST_PRIORITY = 100
"""On either side of 0: what `wire.JobRequest` takes."""

Order = Literal["newest", "queue"]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs a listing shows, each status named once. `owner` None shows everybody's."""

    owner: str | None = None
    status: tuple[str, ...] = ()
    workflow: str | None = None
    batch_id: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page ended: its last job. `priority` only in the order of the queue."""

    job_id: str
    priority: int | None = None


def page(
    session: Session, which: Filter, *, limit: int, cursor: str | None, order: Order = "newest"
) -> tuple[list[wire.Job], str | None]:
    """Give one page, and the cursor of the next one.

    Args:
        session: The open transaction.
        which: What is listed. In the order of the queue only what waits is.
        limit: Jobs on the page at most.
        cursor: What the page before gave; None for the first.
        order: `newest` first, or the `queue`'s: the one that is to start next first.

    Raises:
        InvalidRequest: The cursor is none that a page of this order gave.
    """
    after = _open_cursor(cursor, order) if cursor is not None else None
    ids: sa.SelectBase
    if order == "queue":
        ids = waiting(which, after=after).limit(limit + 1)
        order_by = [_JOB.c.priority.desc(), _JOB.c.id]
    else:
        # One query for each status: each walks an index in the order of the page and stops at the
        # limit, where one for several would read and sort all that have them.
        before = after.job_id if after is not None else None
        found = [
            newest(which, status, before=before).limit(limit + 1)
            for status in which.status or (None,)
        ]
        ids = sa.union_all(*(sa.select(part.subquery().c.id) for part in found))
        order_by = [_JOB.c.id.desc()]
    chosen = sa.select(_JOB).where(_JOB.c.id.in_(ids)).order_by(*order_by).limit(limit + 1)
    rows = session.connection().execute(chosen).all()
    shown = views.show_all(session, rows[:limit])
    if len(rows) <= limit:
        return shown, None
    last = rows[limit - 1]
    return shown, make_cursor(Place(last.id, last.priority if order == "queue" else None))


def newest(which: Filter, status: str | None, *, before: str | None) -> sa.Select[str]:
    """Select the ids of a filter's jobs that have one status (None: any), newest first."""
    labels = [_LABEL.alias() for _ in which.labels]
    # The first label's index is the one that is walked: it holds the ids in their order.
    place = labels[0].c.job_id if labels else _JOB.c.id
    chosen = sa.select(place.label("id")).order_by(place.desc())
    if labels:
        chosen = chosen.join(_JOB, _JOB.c.id == place)
    for label, (key, value) in zip(labels, which.labels.items(), strict=True):
        chosen = chosen.where(label.c.key == key, label.c.value == value)
        if label is not labels[0]:
            chosen = chosen.where(label.c.job_id == place)
    chosen = _narrowed(chosen, which, place)
    if status is not None:
        chosen = chosen.where(_JOB.c.status == status)
    return chosen.where(place < before) if before is not None else chosen


def waiting(which: Filter, *, after: Place | None) -> sa.Select[str]:
    """Select the ids of a filter's queued jobs in the order in which they are offered."""
    priority, place = _JOB.c.priority, _JOB.c.id
    chosen = sa.select(place).where(_JOB.c.status == Status.QUEUED)
    chosen = _narrowed(chosen, which, place).order_by(priority.desc(), place)
    for key, value in which.labels.items():
        same = (_LABEL.c.job_id == place, _LABEL.c.key == key, _LABEL.c.value == value)
        chosen = chosen.where(sa.exists().where(*same))
    if after is None:
        return chosen
    behind = sa.and_(priority == after.priority, place > after.job_id)
    return chosen.where(priority <= after.priority, sa.or_(priority < after.priority, behind))


def _narrowed(
    chosen: sa.Select[str], which: Filter, place: sa.ColumnElement[str]
) -> sa.Select[str]:
    equal = {"owner": which.owner, "workflow": which.workflow, "batch_id": which.batch_id}
    for name, wanted in equal.items():
        if wanted is not None:
            chosen = chosen.where(_JOB.c[name] == wanted)
    if which.created_after is not None:
        chosen = chosen.where(place >= _first_id(which.created_after))
    if which.created_before is not None:
        chosen = chosen.where(place < _first_id(which.created_before))
    return chosen


# --- cursors -------------------------------------------------------------------------------------


def make_cursor(last: Place) -> str:
    """The cursor of the page behind a job."""
    where: dict[str, Any] = {"before": last.job_id}
    if last.priority is not None:
        where = {"behind": last.job_id, "priority": last.priority}
    return base64.urlsafe_b64encode(json.dumps(where).encode()).decode().rstrip("=")


def _open_cursor(cursor: str, order: Order) -> Place:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        opened = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if order == "newest":
            return Place(str(UUID(opened["before"])))
        return Place(str(UUID(opened["behind"])), _priority(opened["priority"]))
    except (binascii.Error, ValueError, KeyError, TypeError, AttributeError) as error:
        detail = "is not a cursor; take `next_cursor` of an earlier page, or leave it out."
        raise InvalidRequest(
            f"The cursor {detail}", errors=[FieldError("/cursor", f"{cursor[:80]!r} {detail}")]
        ) from error


def _priority(sent: object) -> int:
    if type(sent) is not int or abs(sent) > _HIGHEST_PRIORITY:  # a bool is an int, too
        raise ValueError(sent)
    return sent


def _first_id(moment: datetime) -> str:
    """The smallest UUIDv7 of a millisecond: ids are in the order of time."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    milliseconds = max(
        int((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1)), 0
    )
    text = f"{milliseconds:012x}"
    return f"{text[:8]}-{text[8:12]}-7000-8000-000000000000"
