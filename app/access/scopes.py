"""What a caller may do and see; pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from app.errors import Forbidden


class Scope(StrEnum):
    """What a key may do. `admin` implies the others."""

    SUBMIT = "submit"
    READ = "read"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling.

    Attributes:
        id: Id of the API key, which owns what it makes; None for the loopback caller.
        name: What the key was named, for logs.
        scopes: What it was given.
    """

    id: str | None
    name: str
    scopes: frozenset[Scope]

    def has(self, scope: Scope) -> bool:
        """Whether the caller may do what `scope` stands for."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


LOCAL = Caller(id=None, name="local", scopes=frozenset(Scope))
"""The caller without a key, who exists only while the gateway listens on loopback."""


def require(caller: Caller, scope: Scope) -> None:
    """Let a caller pass, or not.

    Raises:
        Forbidden: The caller lacks the scope.
    """
    if not caller.has(scope):
        raise Forbidden(f"This key lacks the scope '{scope}'.")


def may_see(caller: Caller, owner: str | None) -> bool:
    """Whether a caller may see what `owner` made: its own, or with `admin` everything.

    Who may not see a thing must be told that it does not exist.
    """
    return caller.has(Scope.ADMIN) or (caller.id is not None and caller.id == owner)


def seen_owner(caller: Caller) -> str | None:
    """The one owner that a caller's listings are limited to; None means all."""
    return None if caller.has(Scope.ADMIN) else caller.id
