"""Dashboard sessions live as long as they should and no longer than their key."""

from __future__ import annotations

import pytest

from app.access import keys, sessions
from app.access.authenticator import Authenticator
from app.access.keys import CreatedKey
from app.access.scopes import Scope
from app.access.sessions import OpenedSession
from app.database import Database
from app.errors import Unauthorized
from tests.conftest import Clock

pytestmark = pytest.mark.both_databases


async def opened(db: Database, clock: Clock) -> tuple[CreatedKey, OpenedSession]:
    made = await db.write(
        lambda s: keys.create(s, name="k", scopes=[Scope.READ, Scope.SUBMIT], now=clock())
    )
    token = await db.write(lambda s: sessions.open_session(s, key_id=made.view.id, now=clock()))
    return made, token


async def test_a_token_stands_for_its_key(db: Database, clock: Clock) -> None:
    made, token = await opened(db, clock)
    authenticator = Authenticator(db=db, now=clock)
    assert await authenticator.authenticate(token.token) == await authenticator.authenticate(
        made.key
    )


async def test_a_token_ends_at_its_time_though_it_was_just_used(db: Database, clock: Clock) -> None:
    _, token = await opened(db, clock)
    authenticator = Authenticator(db=db, now=clock)
    clock.advance(sessions.LIFETIME.total_seconds() - 1)
    await authenticator.authenticate(token.token)
    clock.advance(1)
    with pytest.raises(Unauthorized):
        await authenticator.authenticate(token.token)


async def test_revoking_the_key_ends_its_sessions_at_once(db: Database, clock: Clock) -> None:
    made, token = await opened(db, clock)
    authenticator = Authenticator(db=db, now=clock)
    await authenticator.authenticate(token.token)
    await authenticator.revoke(made.view.id)
    with pytest.raises(Unauthorized):
        await authenticator.authenticate(token.token)
    with pytest.raises(Unauthorized):
        await opened_again(db, clock, made)


async def opened_again(db: Database, clock: Clock, made: CreatedKey) -> OpenedSession:
    return await db.write(lambda s: sessions.open_session(s, key_id=made.view.id, now=clock()))


async def test_signing_out_ends_one_session_and_leaves_the_others(
    db: Database, clock: Clock
) -> None:
    made, first = await opened(db, clock)
    second = await opened_again(db, clock, made)
    authenticator = Authenticator(db=db, now=clock)
    await authenticator.authenticate(first.token)
    await authenticator.close_session(first.token)
    with pytest.raises(Unauthorized):
        await authenticator.authenticate(first.token)
    assert (await authenticator.authenticate(second.token)).id == made.view.id


async def test_a_forged_token_is_refused(db: Database, clock: Clock) -> None:
    _, token = await opened(db, clock)
    for forged in (sessions.PREFIX, sessions.PREFIX + "x" * 43, token.token[:-1]):
        with pytest.raises(Unauthorized):
            await Authenticator(db=db, now=clock).authenticate(forged)


async def test_the_sweep_removes_expired_sessions_only(db: Database, clock: Clock) -> None:
    made, _ = await opened(db, clock)
    clock.advance(sessions.LIFETIME.total_seconds())
    fresh = await opened_again(db, clock, made)
    assert await db.write(lambda s: sessions.sweep(s, now=clock())) == 1
    await Authenticator(db=db, now=clock).authenticate(fresh.token)
