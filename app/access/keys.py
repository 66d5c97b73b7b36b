"""API keys: made once, shown once, stored as a hash. Plain functions for a transaction.

A key reads `sd_<id>_<secret>`: the id finds the row, the secret is 256 random bits, and the
SHA-256 of the whole is compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Session, col, select

from app.access.scopes import Caller, Scope
from app.access.tables import ApiKey, DashboardSession
from app.errors import NotFound, Unauthorized

_FORM = re.compile(r"sd_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_NO_DIGEST = "0" * 64

REFUSED = "The API key is not valid. It may have been mistyped or revoked."
"""Said in every case alike, so that an answer tells nothing about which ids exist."""


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key without its secret."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A new key. `key` exists nowhere else and cannot be shown again."""

    view: KeyView
    key: str


def create(session: Session, *, name: str, scopes: Collection[Scope], now: datetime) -> CreatedKey:
    """Make a key.

    Args:
        session: Open write transaction.
        name: What people call it.
        scopes: What it may do; at least one.
        now: Time of creation.
    """
    key_id = secrets.token_hex(6)
    key = f"sd_{key_id}_{secrets.token_urlsafe(32)}"
    row = ApiKey(
        id=key_id,
        name=name,
        digest=digest_of(key),
        scopes=sorted(scope.value for scope in set(scopes)),
        created_at=now,
    )
    session.add(row)
    session.flush()
    return CreatedKey(_view(row), key)


def list_keys(session: Session) -> tuple[KeyView, ...]:
    """Every key, the newest first, revoked ones included."""
    rows = session.exec(select(ApiKey).order_by(col(ApiKey.created_at).desc(), col(ApiKey.id)))
    return tuple(_view(row) for row in rows)


def count_active(session: Session, *, scope: Scope | None = None) -> int:
    """How many keys are not revoked, or how many of those have a scope."""
    rows = session.exec(select(ApiKey.scopes).where(col(ApiKey.revoked_at).is_(None))).all()
    return sum(scope is None or scope.value in scopes for scopes in rows)


def revoke(session: Session, key_id: str, *, now: datetime) -> KeyView:
    """End a key and every dashboard session made from it. Revoking twice changes nothing.

    Raises:
        NotFound: There is no such key.
    """
    row = session.get(ApiKey, key_id)
    if row is None:
        raise NotFound(f"There is no API key with the id {key_id[:64]!r}.")
    if row.revoked_at is None:
        row.revoked_at = now
        session.add(row)
    session.execute(sa.delete(DashboardSession).where(col(DashboardSession.key_id) == key_id))
    session.flush()
    return _view(row)


def authenticate(session: Session, key: str) -> tuple[Caller, datetime | None]:
    """The caller behind a key, and when the key was last marked as used.

    Raises:
        Unauthorized: The key is malformed, unknown, wrong or revoked; always the same words.
    """
    form = _FORM.fullmatch(key)
    row = session.get(ApiKey, form.group(1)) if form else None
    same = hmac.compare_digest(digest_of(key), _NO_DIGEST if row is None else row.digest)
    if row is None or not same or row.revoked_at is not None:
        raise Unauthorized(REFUSED)
    return caller_of(row), row.last_used_at


def mark_used(session: Session, key_id: str, *, now: datetime) -> None:
    """Note that a key was used."""
    session.execute(sa.update(ApiKey).where(col(ApiKey.id) == key_id).values(last_used_at=now))


def caller_of(row: ApiKey) -> Caller:
    """The caller that a key stands for."""
    return Caller(id=row.id, name=row.name, scopes=frozenset(Scope(text) for text in row.scopes))


def digest_of(credential: str) -> str:
    """SHA-256 of a credential, lowercase hex. What is not UTF-8 hashes to something else."""
    return hashlib.sha256(credential.encode("utf-8", errors="surrogatepass")).hexdigest()


def _view(row: ApiKey) -> KeyView:
    return KeyView(
        id=row.id,
        name=row.name,
        scopes=tuple(Scope(text) for text in row.scopes),
        created_at=row.created_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )
