"""Wire models that only the API knows: keys, sessions, webhook deliveries."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from app.wire import Asked, Frozen

ScopeName = Literal["submit", "read", "admin"]


class NewKey(Asked):
    """`POST /v1/keys`: a key to be made."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    scopes: Annotated[tuple[ScopeName, ...], Field(min_length=1, max_length=3)] = ("submit", "read")


class Key(Frozen):
    """An API key without its secret."""

    id: str
    name: str
    scopes: tuple[ScopeName, ...]
    created_at: datetime
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None


class CreatedKey(Key):
    """A new key with its secret, which is never shown again."""

    key: str


class KeyList(Frozen):
    """Every key, the newest first."""

    keys: tuple[Key, ...]


class Session(Frozen):
    """Who is signed in. `expires_at` is None for who came with a key of their own, or none."""

    name: str
    scopes: tuple[ScopeName, ...]
    key_id: str | None
    expires_at: datetime | None = None


class WebhookSecret(Frozen):
    """What the messages of this key's jobs are signed with (Standard Webhooks)."""

    secret: str


class DeliveryTry(Frozen):
    """One try to deliver a message. `status_code` is None when nothing was answered."""

    number: int
    at: datetime
    status_code: int | None
    error: str | None
    answer: str
    duration_seconds: float


class Delivery(Frozen):
    """One webhook message and how far it has come."""

    id: str
    job_id: str
    url: str
    event_type: str
    state: Literal["pending", "delivered", "failed"]
    created_at: datetime
    next_attempt_at: datetime | None
    delivered_at: datetime | None
    attempts: int
    tries: tuple[DeliveryTry, ...] | None = None


class DeliveryPage(Frozen):
    """One page of the delivery log. `next_cursor` is None on the last page."""

    deliveries: tuple[Delivery, ...]
    next_cursor: str | None = None


class Attempt(Frozen):
    """One try at a job.

    Attributes:
        outcome: How it ended; None while it goes on.
        detail: The engine's own words; only for `admin`.
        log_tail: The last lines of the engine's log, where the gateway owns it; only for `admin`.
        vram_timeline: `[seconds since its start, MiB]` of ComfyUI's process, at most 600 points;
            None where no card was read.
    """

    number: int
    engine: str
    low_memory: bool
    claimed_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    outcome: str | None
    detail: str | None
    log_tail: str | None
    peak_vram_mib: int | None
    vram_timeline: tuple[tuple[float, int], ...] | None


class AttemptList(Frozen):
    """Every attempt at a job, the first one first."""

    attempts: tuple[Attempt, ...]


class LearnedShape(Frozen):
    """What runs of one shape took on one kind of card.

    Attributes:
        need_mib: What admission uses for the next one: the peak and a margin.
        samples: How many runs that comes from.
        ooms: How many of them ran out of memory.
    """

    workflow: str
    variant: str
    width: int
    height: int
    frames: int
    card: str
    samples: int
    ooms: int
    peak_mib: int
    need_mib: int
    last_at: datetime


class LearnedMemory(Frozen):
    """Every shape that was measured."""

    shapes: tuple[LearnedShape, ...]


class Alive(Frozen):
    """`GET /healthz`."""

    status: Literal["ok"] = "ok"
