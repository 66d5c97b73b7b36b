"""The whole table of who may do and see what."""

from __future__ import annotations

import itertools

import pytest

from app.access.scopes import LOCAL, Caller, Scope, may_see, require, seen_owner
from app.errors import Forbidden

EVERY_SET = [
    frozenset(chosen) for size in range(4) for chosen in itertools.combinations(Scope, size)
]


@pytest.mark.parametrize("scopes", EVERY_SET, ids=lambda scopes: "+".join(sorted(scopes)) or "none")
@pytest.mark.parametrize("wanted", list(Scope))
def test_a_scope_is_had_by_name_or_by_admin(scopes: frozenset[Scope], wanted: Scope) -> None:
    caller = Caller(id="k", name="k", scopes=scopes)
    if wanted in scopes or Scope.ADMIN in scopes:
        require(caller, wanted)
    else:
        with pytest.raises(Forbidden, match=wanted):
            require(caller, wanted)


def test_a_caller_sees_its_own_and_an_admin_sees_all() -> None:
    plain = Caller(id="a", name="a", scopes=frozenset({Scope.READ, Scope.SUBMIT}))
    admin = Caller(id="b", name="b", scopes=frozenset({Scope.ADMIN}))
    assert [may_see(plain, owner) for owner in ("a", "b", None)] == [True, False, False]
    assert [may_see(admin, owner) for owner in ("a", "b", None)] == [True, True, True]
    assert [may_see(LOCAL, owner) for owner in ("a", None)] == [True, True]
    assert (seen_owner(plain), seen_owner(admin), seen_owner(LOCAL)) == ("a", None, None)


def test_a_caller_without_id_and_without_admin_does_not_see_what_has_no_owner() -> None:
    assert not may_see(Caller(id=None, name="x", scopes=frozenset({Scope.READ})), None)
