"""Who is calling: a key, a dashboard session, or, on a gateway without keys, anybody local."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from fastapi import Request

from app.access import keys
from app.access.authenticator import Authenticator
from app.access.scopes import LOCAL, Caller
from app.database import Database
from app.errors import Forbidden, Unauthorized

COOKIE = "steadydancer_session"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_LOOK_AGAIN_SECONDS = 5.0


class Doorman:
    """Lets callers in.

    Args:
        db: Where keys are counted.
        authenticator: Where credentials are checked.
        loopback: Whether the gateway listens on loopback only.
        cors_origins: Origins whose pages may call.
    """

    def __init__(
        self,
        *,
        db: Database,
        authenticator: Authenticator,
        loopback: bool,
        cors_origins: Collection[str] = (),
    ) -> None:
        self._db = db
        self._authenticator = authenticator
        self._loopback = loopback
        self._origins = frozenset(origin.rstrip("/").lower() for origin in cors_origins)
        self._keys = 0
        self._counted_at = float("-inf")

    async def caller(self, request: Request) -> Caller:
        """The caller of a request.

        Raises:
            Unauthorized: No credential, or one that is not valid.
            Forbidden: A browser sends it on behalf of another site's page.
        """
        authorization = request.headers.get("authorization")
        if authorization is not None:
            return await self._authenticator.authenticate(_bearer(authorization))
        # What a browser adds by itself proves nothing about who asked it to.
        token = session_token(request)
        if request.method not in _SAFE:
            self.same_site(request)
        if token is not None:
            return await self._authenticator.authenticate(token)
        if not await self.open():
            raise Unauthorized("This call needs a key: send `Authorization: Bearer KEY`.")
        _local_name(request)
        return LOCAL

    async def open(self) -> bool:
        """Whether a call without a credential is let in."""
        if not self._loopback:
            return False
        now = asyncio.get_running_loop().time()
        if now - self._counted_at > _LOOK_AGAIN_SECONDS:
            self._keys = await self._db.read(keys.count_active)
            self._counted_at = now
        return self._keys == 0

    def keys_changed(self) -> None:
        """Count the keys again at the next call."""
        self._counted_at = float("-inf")

    def same_site(self, request: Request) -> None:
        """Refuse what the page of another site has a browser send.

        Raises:
            Forbidden: The browser names another origin.
        """
        origin = request.headers.get("origin")
        site = request.headers.get("sec-fetch-site", "none")
        if origin is not None and origin.lower() in self._origins:
            return
        foreign = site not in {"same-origin", "none"}
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            foreign = True
        if foreign:
            raise Forbidden(
                "A page of another site sent this without a key. Send `Authorization: Bearer "
                "KEY`, or have the operator list the page's origin."
            )


def session_token(request: Request) -> str | None:
    """The dashboard's session token, where the request carries one."""
    header = request.headers.get("cookie")
    if header is None:
        return None
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return None
    return morsel.value if morsel is not None else None


def _bearer(authorization: str) -> str:
    scheme, _, credential = authorization.partition(" ")
    if scheme.lower() != "bearer" or not credential.strip():
        raise Unauthorized("The Authorization header must read `Bearer KEY`.")
    return credential.strip()


def _local_name(request: Request) -> None:
    """Refuse names that a foreign site could have pointed at this machine (DNS rebinding).

    Raises:
        Forbidden: The call was made under another name than this machine's own.
    """
    if not _is_local(request.headers.get("host", "")):
        raise Forbidden(
            "Without a key this gateway answers only under a name of its own machine, such as "
            "127.0.0.1 or localhost. Make a key to call it under another."
        )


@functools.lru_cache(maxsize=64)
def _is_local(host: str) -> bool:
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        if name == "localhost" or name.endswith(".localhost"):
            return True
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
