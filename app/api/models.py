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


class Alive(Frozen):
    """`GET /healthz`."""

    status: Literal["ok"] = "ok"
