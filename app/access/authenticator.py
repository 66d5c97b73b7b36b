"""From a credential to a caller, thousands of times a second.

The store is asked once per credential and `FRESH`; in between a small table in memory answers.
Revocations made through this object take effect at once; those made by another process (the
command line) within `FRESH`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlmodel import Session

from app.access import keys, sessions
from app.access.keys import KeyView
from app.access.scopes import Caller
from app.database import Database
from app.errors import StorageFull, StoreUnavailable

FRESH = timedelta(seconds=10)
_MARK_EVERY = timedelta(minutes=1)
_MOST_KNOWN = 4096


@dataclass(frozen=True, slots=True)
class _Known:
    caller: Caller
    until: datetime


class Authenticator:
    """Keys and session tokens, checked against the store or what was just read from it."""

    def __init__(self, *, db: Database, now: Callable[[], datetime]) -> None:
        self._db = db
        self._now = now
        self._known: dict[str, _Known] = {}
        self._revocations = 0

    async def authenticate(self, credential: str) -> Caller:
        """The caller behind an API key or a session token.

        Raises:
            Unauthorized: It is neither, or not valid any more.
        """
        # Known by digest: how long a look-up takes says nothing about the credential.
        digest = keys.digest_of(credential)
        now = self._now()
        known = self._known.get(digest)
        if known is not None and now < known.until:
            return known.caller
        revocations = self._revocations
        caller, until = await self._ask(credential, now)
        # What was read before a revocation that happened meanwhile must not outlive it.
        if revocations == self._revocations:
            self._remember(digest, _Known(caller, until))
        return caller

    async def revoke(self, key_id: str) -> KeyView:
        """Revoke a key, its sessions, and what is remembered of them.

        Raises:
            NotFound: There is no such key.
        """

        def work(session: Session) -> KeyView:
            return keys.revoke(session, key_id, now=self._now())

        view = await self._db.write(work)
        self._forget(lambda known: known.caller.id == key_id)
        return view

    async def close_session(self, token: str) -> None:
        """End a dashboard session, here and in the store."""
        await self._db.write(lambda session: sessions.close_session(session, token))
        self._revocations += 1
        self._known.pop(keys.digest_of(token), None)

    async def _ask(self, credential: str, now: datetime) -> tuple[Caller, datetime]:
        if credential.startswith(sessions.PREFIX):
            caller, expires_at = await self._db.read(
                lambda session: sessions.resolve(session, credential, now=now)
            )
            return caller, min(expires_at, now + FRESH)
        caller, last_used_at = await self._db.read(
            lambda session: keys.authenticate(session, credential)
        )
        if last_used_at is None or last_used_at + _MARK_EVERY <= now:
            key_id = str(caller.id)
            # A note for people: on a full disk what is stored can still be read with the key.
            with suppress(StorageFull, StoreUnavailable):
                await self._db.write(
                    lambda session: keys.mark_used(session, key_id, now=now), durable=False
                )
        return caller, now + FRESH

    def _remember(self, digest: str, known: _Known) -> None:
        self._known.pop(digest, None)
        if len(self._known) >= _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[digest] = known

    def _forget(self, which: Callable[[_Known], bool]) -> None:
        self._revocations += 1
        self._known = {digest: known for digest, known in self._known.items() if not which(known)}
