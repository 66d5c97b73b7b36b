"""Keys, what becomes of them, and how they are checked."""

from __future__ import annotations

import hmac
import json
import sqlite3
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from app.access import keys
from app.access.authenticator import FRESH, Authenticator
from app.access.keys import CreatedKey
from app.access.scopes import Scope
from app.database import Database
from app.errors import NotFound, StorageFull, Unauthorized
from tests.conftest import Clock

pytestmark = pytest.mark.both_databases


async def make(db: Database, clock: Clock, *scopes: Scope, name: str = "k") -> CreatedKey:
    return await db.write(
        lambda s: keys.create(s, name=name, scopes=scopes or (Scope.READ,), now=clock())
    )


async def test_a_key_opens_for_whom_it_was_made(db: Database, clock: Clock) -> None:
    made = await make(db, clock, Scope.SUBMIT, Scope.READ, name="studio")
    caller = await Authenticator(db=db, now=clock).authenticate(made.key)
    assert caller.id == made.view.id
    assert caller.name == "studio"
    assert caller.scopes == {Scope.SUBMIT, Scope.READ}


@pytest.mark.sqlite_only
async def test_the_secret_is_nowhere_in_the_database_file(db: Database, clock: Clock) -> None:
    made = await make(db, clock)
    assert db.path is not None
    with sqlite3.connect(db.path) as raw:
        dump = "\n".join(raw.iterdump())
    raw.close()
    assert made.view.id in dump
    assert made.key.rpartition("_")[2] not in dump
    assert made.key not in dump


async def test_no_two_keys_are_alike(db: Database, clock: Clock) -> None:
    made = [await make(db, clock) for _ in range(20)]
    assert len({item.key for item in made}) == len({item.view.id for item in made}) == 20


@pytest.mark.parametrize(
    "spoil",
    [
        lambda key: "",
        lambda key: key[:-1],
        lambda key: key + "A",
        lambda key: key[:-1] + ("A" if key[-1] != "A" else "B"),
        lambda key: key + "\n",
        lambda key: key.upper(),
        lambda key: "sd_" + "0" * 12 + key[15:],
        lambda key: key.replace("sd_", "sk_"),
        lambda key: "\ud800",
        lambda key: "%' OR 1=1 --",
        lambda key: "x" * 100_000,
    ],
)
async def test_anything_but_the_key_is_refused_in_the_same_words(
    db: Database, clock: Clock, spoil: Callable[[str], str]
) -> None:
    made = await make(db, clock)
    with pytest.raises(Unauthorized) as refused:
        await Authenticator(db=db, now=clock).authenticate(spoil(made.key))
    assert refused.value.detail == keys.REFUSED


async def test_wrong_and_unknown_keys_alike_are_compared_in_constant_time(
    db: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await make(db, clock)
    compared: list[tuple[str, str]] = []

    def watched(left: str, right: str) -> bool:
        compared.append((left, right))
        return hmac.compare_digest(left, right)

    monkeypatch.setattr(keys, "hmac", SimpleNamespace(compare_digest=watched))
    for key in (made.key[:-1] + "_", "sd_" + "0" * 12 + made.key[15:], "nonsense"):
        with pytest.raises(Unauthorized):
            await Authenticator(db=db, now=clock).authenticate(key)
    assert len(compared) == 3
    assert all(len(left) == len(right) == 64 for left, right in compared)


async def test_a_revoked_key_is_refused_at_once_though_it_was_just_used(
    db: Database, clock: Clock
) -> None:
    made = await make(db, clock)
    authenticator = Authenticator(db=db, now=clock)
    await authenticator.authenticate(made.key)
    view = await authenticator.revoke(made.view.id)
    assert view.revoked_at == clock()
    with pytest.raises(Unauthorized):
        await authenticator.authenticate(made.key)


async def test_a_key_revoked_by_another_process_is_refused_within_the_stated_time(
    db: Database, clock: Clock
) -> None:
    made = await make(db, clock)
    authenticator = Authenticator(db=db, now=clock)
    await authenticator.authenticate(made.key)
    await db.write(lambda s: keys.revoke(s, made.view.id, now=clock()))
    clock.advance(FRESH.total_seconds())
    with pytest.raises(Unauthorized):
        await authenticator.authenticate(made.key)


async def test_repeated_use_of_a_key_does_not_ask_the_store(db: Database, clock: Clock) -> None:
    made = await make(db, clock)
    authenticator = Authenticator(db=db, now=clock)
    first = await authenticator.authenticate(made.key)
    db.close()
    assert await authenticator.authenticate(made.key) is first


async def test_use_is_noted_about_once_a_minute(db: Database, clock: Clock) -> None:
    made = await make(db, clock)
    authenticator = Authenticator(db=db, now=clock)
    first = clock()
    for seconds in (0, 30, 29):
        clock.advance(seconds)
        await authenticator.authenticate(made.key)
        (view,) = await db.read(keys.list_keys)
        assert view.last_used_at == first
    clock.advance(FRESH.total_seconds())
    await authenticator.authenticate(made.key)
    (view,) = await db.read(keys.list_keys)
    assert view.last_used_at == clock()


async def test_a_full_disk_does_not_keep_a_key_out(
    db: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await make(db, clock)

    async def full(*_args: object, **_kwargs: object) -> None:
        raise StorageFull("The disk is full.")

    monkeypatch.setattr(db, "write", full)
    assert (await Authenticator(db=db, now=clock).authenticate(made.key)).id == made.view.id


async def test_listing_shows_revoked_keys_and_no_secret(db: Database, clock: Clock) -> None:
    old = await make(db, clock, name="old")
    clock.advance(5)
    new = await make(db, clock, Scope.ADMIN, name="new")
    await db.write(lambda s: keys.revoke(s, old.view.id, now=clock()))
    listed = await db.read(keys.list_keys)
    assert [view.name for view in listed] == ["new", "old"]
    assert listed[1].revoked_at == clock()
    text = json.dumps([str(view) for view in listed])
    assert new.key.rpartition("_")[2] not in text
    assert await db.read(keys.count_active) == 1
    assert await db.read(lambda s: keys.count_active(s, scope=Scope.ADMIN)) == 1
    assert await db.read(lambda s: keys.count_active(s, scope=Scope.READ)) == 0


async def test_revoking_twice_keeps_the_first_time_and_an_unknown_key_is_not_found(
    db: Database, clock: Clock
) -> None:
    made = await make(db, clock)
    authenticator = Authenticator(db=db, now=clock)
    first = await authenticator.revoke(made.view.id)
    clock.advance(60)
    assert (await authenticator.revoke(made.view.id)).revoked_at == first.revoked_at
    with pytest.raises(NotFound):
        await authenticator.revoke("no-such-key")
