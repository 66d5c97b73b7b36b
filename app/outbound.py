"""The guarded HTTP client for URLs that strangers name: media inputs and webhook targets.

What it defends: a client must not make the gateway reach machines that only the gateway can reach
(server-side request forgery). A host name is resolved once, every address it resolves to is
vetted, and the connection goes to a vetted address, so an answer that changes between check and
use changes nothing. TLS is still verified against the name. There is no cookie, proxy, netrc,
stored credential or reused connection, since requests go straight to the transport.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import httpx

from app.errors import FetchRefused

Address = IPv4Address | IPv6Address
Resolver = Callable[[str, int], Awaitable[Collection[str]]]
"""Gives the addresses of a host name, in the order in which they should be tried."""

_MOST_URL = 8192
_MOST_ADDRESSES = 4
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NAME = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*"
)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def _networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(word) for word in text.split())


_PRIVATE = _networks(
    "10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 172.16.0.0/12 192.168.0.0/16 ::1/128 fc00::/7"
)
"""What an operator may open: private, loopback, carrier-grade NAT and unique local addresses."""

_NEVER_4 = _networks(
    "0.0.0.0/8 168.63.129.16/32 169.254.0.0/16 192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 "
    "198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4"
)
"""The special-purpose IPv4 registry (https://www.iana.org/assignments/iana-ipv4-special-registry),
multicast, and Azure's metadata address, which is a public one. Listed here rather than taken from
`ipaddress`, whose idea of `is_global` differs between Python versions."""

_PUBLIC_6 = IPv6Network("2000::/3")
_NEVER_6 = _networks("2001::/23 2001:db8::/32 2002::/16 3fff::/20")
"""All of IPv6 that is assigned as global unicast, and within it the protocol assignments (Teredo
among them), documentation and 6to4. IPv4-mapped and NAT64 addresses lie outside."""

_METADATA_6 = IPv6Address("fd00:ec2::254")


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet, in its plain spelling."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in (*_NEVER_4, *_PRIVATE))
    return address in _PUBLIC_6 and not any(address in network for network in _NEVER_6)


async def resolve(host: str, port: int) -> Collection[str]:
    """Ask the system's resolver. Raises `OSError` when there is no answer."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True, slots=True)
class Answer:
    """What a webhook receiver said.

    Attributes:
        status_code: HTTP status.
        text: Beginning of the body, undecodable bytes replaced.
        retry_after: Seconds asked for with `Retry-After`, where given as a number.
    """

    status_code: int
    text: str
    retry_after: float | None


class Outbound:
    """Requests to foreign URLs. One for the whole process; close it with `aclose`.

    Args:
        allow_hosts: Host names or addresses that may lie in private networks all the same. Link
            local, metadata, multicast and reserved addresses stay refused for them too.
        allow_private: The same for every host. For tests and closed networks only.
        idle_seconds: Longest silence while connecting or reading.
        max_redirects: Most redirects that a fetch follows.
        resolver: Replaces the system's resolver.
        tls: Replaces the trust store.
    """

    def __init__(
        self,
        *,
        allow_hosts: Collection[str] = (),
        allow_private: bool = False,
        idle_seconds: float = 15,
        max_redirects: int = 5,
        resolver: Resolver = resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._allow_hosts = frozenset(host.lower().strip("[]") for host in allow_hosts)
        self._allow_private = allow_private
        self._idle = idle_seconds
        self._max_redirects = max_redirects
        self._resolver = resolver
        self._tls = tls
        self._transport: httpx.AsyncHTTPTransport | None = None

    async def aclose(self) -> None:
        """Close what is still open."""
        if self._transport is not None:
            await self._transport.aclose()
            self._transport = None

    def check(self, url: str) -> None:
        """Refuse what can be refused without asking a name server; for use at submission.

        Raises:
            FetchRefused: The URL is not http(s), carries credentials, or names an address that
                is not public or is oddly spelled.
        """
        self._parse(url)

    async def fetch(
        self, url: str, *, limit_bytes: int, timeout_seconds: float
    ) -> AsyncGenerator[bytes, None]:
        """Stream the body of a URL. Follows redirects, each vetted like the first URL.

        Close the iterator (`contextlib.aclosing`) when it is left early.

        Args:
            url: Where from.
            limit_bytes: Most bytes that are taken.
            timeout_seconds: For the whole of it, from the first name lookup to the last byte,
                the reader's own time included.

        Raises:
            FetchRefused: The URL or a redirect is not allowed, does not answer 200 in time, is
                encoded (compressed), or is too large.
        """
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        for _ in range(self._max_redirects + 1):
            async with self._send("GET", url, deadline=deadline) as response:
                if response.status_code in _REDIRECTS:
                    url = _redirected(url, response)
                    continue
                if response.status_code != 200:
                    raise FetchRefused(
                        f"The server answered {response.status_code} instead of 200."
                    )
                _check_head(response, limit_bytes)
                async for chunk in self._body(response, limit_bytes, deadline):
                    yield chunk
                return
        raise FetchRefused(f"The URL redirects more than {self._max_redirects} times.")

    async def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        timeout_seconds: float,
        answer_bytes: int = 8192,
    ) -> Answer:
        """Post a body and give the answer. Redirects are answers; they are not followed.

        Args:
            url: Where to.
            body: What to send.
            headers: Further headers; `host`, `content-length` and the like are added.
            timeout_seconds: For the whole of it.
            answer_bytes: Most bytes of the answer that are read.

        Raises:
            FetchRefused: The URL is not allowed, or nothing answered in time.
        """
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        async with self._send("POST", url, deadline=deadline, body=body, headers=headers) as got:
            beginning = b""
            chunks = got.aiter_raw()
            # The status is the answer; a body that stalls or breaks does not undo it.
            with contextlib.suppress(httpx.HTTPError, TimeoutError):
                while len(beginning) < answer_bytes:
                    async with asyncio.timeout_at(deadline):
                        chunk = await anext(chunks, None)
                    if chunk is None:
                        break
                    beginning += chunk
            wait = got.headers.get("retry-after", "")
            return Answer(
                status_code=got.status_code,
                text=beginning[:answer_bytes].decode("utf-8", errors="replace"),
                retry_after=float(wait) if re.fullmatch(r"[0-9]{1,6}", wait) else None,
            )

    # --- sending ---------------------------------------------------------------------------

    @asynccontextmanager
    async def _send(
        self,
        method: str,
        url: str,
        *,
        deadline: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """One request to a vetted address, its answer's head, and its end."""
        target, host = self._parse(url)
        try:
            async with asyncio.timeout_at(deadline):
                addresses = await self._vetted(target, host)
                response = await self._try_each(
                    addresses, host, method, target, body=body, headers=headers
                )
        except TimeoutError as error:
            raise FetchRefused(f"{host} did not answer in time.") from error
        try:
            yield response
        finally:
            await response.aclose()

    async def _try_each(
        self,
        addresses: list[str],
        host: str,
        method: str,
        target: httpx.URL,
        *,
        body: bytes | None,
        headers: Mapping[str, str] | None,
    ) -> httpx.Response:
        """Send to the first address that takes the connection."""
        if self._transport is None:
            # Kept-alive connections are known by address, not by the name TLS verified: none.
            self._transport = httpx.AsyncHTTPTransport(
                verify=True if self._tls is None else self._tls,
                trust_env=False,
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            )
        failure = "could not be connected to"
        for address in addresses:
            request = httpx.Request(
                method,
                target,
                headers={
                    "user-agent": "steadydancer-gateway",
                    "accept": "*/*",
                    "accept-encoding": "identity",
                    "connection": "close",
                    **(headers or {}),
                },
                content=body,
                extensions={
                    "sni_hostname": host,
                    "timeout": dict.fromkeys(("connect", "read", "write", "pool"), self._idle),
                },
            )
            request.url = target.copy_with(host=address)
            try:
                return await self._transport.handle_async_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if _is_tls(error):
                    failure = "has no valid TLS certificate, or does not speak TLS"
            except httpx.HTTPError as error:
                late = isinstance(error, httpx.TimeoutException)
                what = "did not answer in time" if late else "broke the connection"
                raise FetchRefused(f"{host} {what}.") from error
        raise FetchRefused(f"{host} {failure}.")

    async def _body(
        self, response: httpx.Response, limit_bytes: int, deadline: float
    ) -> AsyncIterator[bytes]:
        chunks = response.aiter_raw()
        taken = 0
        while True:
            try:
                # Around each step, never across a yield: a timeout belongs to the awaiting task.
                async with asyncio.timeout_at(deadline):
                    chunk = await anext(chunks, None)
            except (TimeoutError, httpx.TimeoutException) as error:
                raise FetchRefused("The server sent the file too slowly.") from error
            except httpx.HTTPError as error:
                raise FetchRefused("The connection broke before the file was complete.") from error
            if chunk is None:
                return
            taken += len(chunk)
            if taken > limit_bytes:
                raise _too_large(limit_bytes)
            yield chunk

    # --- vetting ---------------------------------------------------------------------------

    def _parse(self, text: str) -> tuple[httpx.URL, str]:
        """The URL and its host in lower case, without brackets or a trailing dot."""
        url = _split(text)
        host = url.raw_host.decode("ascii").lower().strip("[]").removesuffix(".")
        try:
            address = ip_address(host)
        except ValueError:
            if _NUMBER.fullmatch(host.rpartition(".")[2]):
                raise FetchRefused("Spell the address as four decimal numbers.") from None
            if not _NAME.fullmatch(host):
                raise FetchRefused("The URL names no valid host.") from None
        else:
            if "%" in host:
                raise FetchRefused("An address with a zone cannot be used.")
            self._vet(address, host)
        return url, host

    async def _vetted(self, url: httpx.URL, host: str) -> list[str]:
        """Every address of the host, all of them allowed."""
        try:
            return [str(ip_address(host))]
        except ValueError:
            pass  # a name: `_parse` has vetted the addresses
        try:
            found = await self._resolver(host, url.port or (443 if url.scheme == "https" else 80))
        except (OSError, UnicodeError) as error:
            raise FetchRefused(f"The host name {host} cannot be resolved.") from error
        addresses = [ip_address(text) for text in found]
        if not addresses:
            raise FetchRefused(f"The host name {host} cannot be resolved.")
        for address in addresses:
            self._vet(address, host)
        return [str(address) for address in addresses[:_MOST_ADDRESSES]]

    def _vet(self, address: Address, host: str) -> None:
        if is_public(address):
            return
        if (
            (self._allow_private or host in self._allow_hosts)
            and any(address in network for network in _PRIVATE)
            and address != _METADATA_6
        ):
            return
        # Which address it is would tell the client about a network it cannot see.
        raise FetchRefused(f"{host} is not on the public internet.")


def _split(text: str) -> httpx.URL:
    if len(text) > _MOST_URL:
        raise FetchRefused(f"The URL is longer than {_MOST_URL} characters.")
    if "\\" in text or any(char <= " " or char == "\x7f" for char in text):
        raise FetchRefused("The URL has blanks, backslashes or control characters.")
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise FetchRefused("That is not a valid URL.") from error
    if url.scheme not in {"http", "https"}:
        raise FetchRefused("Only http:// and https:// URLs can be used.")
    if url.userinfo or "@" in re.split(r"[/?#]", text.partition("//")[2], maxsplit=1)[0]:
        raise FetchRefused("A URL with a user name or password in it cannot be used.")
    if url.port is not None and not 0 < url.port < 65536:
        raise FetchRefused("The URL's port is not between 1 and 65535.")
    return url


def _is_tls(error: BaseException | None) -> bool:
    """Whether a TLS error lies anywhere beneath; httpx keeps it some levels down."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error is not None


def _redirected(url: str, response: httpx.Response) -> str:
    try:
        return str(httpx.URL(url).join(response.headers.get("location", "")))
    except (httpx.InvalidURL, ValueError) as error:
        raise FetchRefused("The server redirects to something that is not a URL.") from error


def _check_head(response: httpx.Response, limit_bytes: int) -> None:
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        raise FetchRefused("The server sent the file compressed although that was not asked for.")
    length = response.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > limit_bytes:
        raise _too_large(limit_bytes)


def _too_large(limit_bytes: int) -> FetchRefused:
    return FetchRefused(f"The file is larger than the allowed {limit_bytes:,} bytes.")
