"""What both clients need of httpx: settings of the connection, requests, files, failures."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from app.client.calls import Call, Form, Reply
from app.client.errors import GatewayUnreachable, InvalidArgument

DEFAULT_URL = "http://127.0.0.1:8000"
"""Where a gateway listens that nobody has configured."""

_CONNECT_SECONDS = 5.0


def settings_of(url: str, key: str | None) -> dict[str, Any]:
    """Arguments of httpx's clients.

    Raises:
        InvalidArgument: The URL is not one of HTTP.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InvalidArgument(f"{url!r} is no URL of a gateway; write http://HOST:PORT.")
    headers = {"User-Agent": f"steadydancer-client/{_version()}", "Accept": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    return {
        "base_url": url.rstrip("/"),
        "headers": headers,
        # A proxy for the web cannot reach this machine's own loopback.
        "trust_env": not _is_loopback(parts.hostname),
    }


@contextmanager
def request_of(call: Call) -> Generator[dict[str, Any]]:
    """Arguments of httpx's `stream` for a call; its files are open meanwhile."""
    arguments: dict[str, Any] = {
        "method": call.method,
        "url": call.path,
        "headers": dict(call.headers),
        "timeout": httpx.Timeout(call.seconds, connect=_CONNECT_SECONDS),
        # Files may lie in object storage, which gets the range but never the key: httpx sends
        # Authorization on only to the same origin.
        "follow_redirects": call.sink is not None,
    }
    if call.params:
        arguments["params"] = list(call.params)
    if call.body is not None:
        arguments["json"] = call.body
    with ExitStack() as stack:
        if call.form is not None:
            arguments["data"] = dict(call.form.fields)
            arguments["files"] = _files(call.form, stack)
        yield arguments


def head_of(answer: httpx.Response) -> Reply:
    """Status and headers of an answer."""
    return Reply(answer.status_code, _lower(answer.headers))


def reply_of(answer: httpx.Response) -> Reply:
    """An answer that was read."""
    return Reply(answer.status_code, _lower(answer.headers), answer.content)


@contextmanager
def failures_named(url: str) -> Generator[None]:
    """Raise the client's own error for what happens to a connection."""
    try:
        yield
    except httpx.TimeoutException as error:
        raise GatewayUnreachable(url, "it did not answer in time") from error
    except (httpx.TransportError, httpx.StreamError) as error:
        raise GatewayUnreachable(url, _why(error)) from error


def _why(error: Exception) -> str:
    if isinstance(error, httpx.ConnectError):
        return "nothing answers there"
    return (str(error) or type(error).__name__).rstrip(".")


def _lower(headers: httpx.Headers) -> Mapping[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _files(form: Form, stack: ExitStack) -> dict[str, tuple[str, _Counted]]:
    total = sum(path.stat().st_size for path in form.files.values())
    sent = 0

    def count(size: int) -> None:
        nonlocal sent
        sent += size
        if form.on_bytes is not None:
            form.on_bytes(min(sent, total), total)

    return {
        name: (path.name, stack.enter_context(_Counted(path, count)))
        for name, path in form.files.items()
    }


class _Counted(io.FileIO):
    """A file that tells how much of it is read."""

    def __init__(self, path: Path, count: Callable[[int], None]) -> None:
        super().__init__(path, "rb")
        self._count = count

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, and tell."""
        data = super().read(-1 if size is None else size) or b""
        self._count(len(data))
        return data


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _version() -> str:
    try:
        return version("steadydancer-gateway")
    except PackageNotFoundError:  # the folder copied into another project
        return "0"
