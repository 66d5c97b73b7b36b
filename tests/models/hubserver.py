"""A Hub and its CDN on two ports: speaks what huggingface_hub asks, and misbehaves when told to."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Served:
    """One file and how it is served.

    Attributes:
        data: The bytes that are sent.
        stated_size: What the Hub says, where it is not the truth.
        stated_sha256: The same of the hash.
        error: Code and X-Error-Code of the Hub's refusal.
        cuts: Bytes after which each next transfer breaks off; then they run through.
        faults: Transfers that are answered with 503 before one works.
        ranges: Whether ranges are understood.
        hold_at: Byte at which a transfer waits until `go` is set.
    """

    data: bytes
    stated_size: int | None = None
    stated_sha256: str | None = None
    error: tuple[int, str] | None = None
    cuts: list[int] = field(default_factory=list)
    faults: int = 0
    ranges: bool = True
    range_shift: int = 0
    tail: bytes = b""
    single_use: bool = False
    hold_at: int | None = None
    go: threading.Event = field(default_factory=threading.Event)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class Asked:
    """A request as it came in."""

    method: str
    path: str
    range: str | None
    authorization: str | None


class FakeHub:
    """Files by `repository/path`."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.hub_requests: list[Asked] = []
        self.cdn_requests: list[Asked] = []
        self.sent_bytes = 0
        self.used: set[str] = set()
        self.numbers = count(1)
        self.lock = threading.Lock()
        self.hub_port = 0
        self.cdn_port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.hub_port}"

    def served(self) -> list[str | None]:
        """The range of each transfer."""
        return [asked.range for asked in self.cdn_requests]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeHub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def noted(self) -> Asked:
        headers = self.headers
        return Asked(self.command, self.path, headers["Range"], headers["Authorization"])

    def answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


class _Hub(_Handler):
    def do_HEAD(self) -> None:
        self.fake.hub_requests.append(self.noted())
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/main/(.+)", self.path)
        served = self.fake.files.get(f"{found[1]}/{found[2]}") if found else None
        if served is None or found is None:
            self.answer(404, {"X-Error-Code": "EntryNotFound", "Content-Length": "0"})
        elif served.error is not None:
            code, why = served.error
            self.answer(code, {"X-Error-Code": why, "Content-Length": "0"})
        else:
            size = len(served.data) if served.stated_size is None else served.stated_size
            number = next(self.fake.numbers)
            where = f"http://localhost:{self.fake.cdn_port}/{number}/{found[1]}/{found[2]}"
            self.answer(
                302,
                {
                    "Location": where,
                    "X-Repo-Commit": COMMIT,
                    "X-Linked-Size": str(size),
                    "X-Linked-ETag": f'"{served.stated_sha256 or served.sha256}"',
                    "Content-Length": "0",
                },
            )


class _Cdn(_Handler):
    def do_GET(self) -> None:
        fake = self.fake
        fake.cdn_requests.append(self.noted())
        _, number, name = self.path.split("/", 2)
        served = fake.files[name]
        if served.single_use and number in fake.used:
            self.answer(403, {"Content-Length": "0"})
            return
        fake.used.add(number)
        if served.faults:
            served.faults -= 1
            self.answer(503, {"Content-Length": "0"})
            return
        whole = served.data + served.tail
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        start = int(asked[1]) if asked and served.ranges else 0
        body = whole[start:]
        headers = {"Content-Length": str(len(body))}
        if asked and served.ranges:
            shown = start + served.range_shift
            headers["Content-Range"] = f"bytes {shown}-{len(whole) - 1}/{len(whole)}"
        self.answer(206 if asked and served.ranges else 200, headers)
        cut = served.cuts.pop(0) if served.cuts else None
        # A client that was killed is no news here.
        with suppress(ConnectionError):
            self._send(served, body if cut is None else body[:cut], start)
        if cut is not None:
            self.close_connection = True

    def _send(self, served: Served, body: bytes, start: int) -> None:
        pieces = [body]
        if served.hold_at is not None and start < served.hold_at:
            pieces = [body[: served.hold_at - start], body[served.hold_at - start :]]
        for index, piece in enumerate(pieces):
            if index:
                served.go.wait(120)
            self.wfile.write(piece)
            self.wfile.flush()
            with self.fake.lock:
                self.fake.sent_bytes += len(piece)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no news here."""


@contextmanager
def serving() -> Iterator[FakeHub]:
    """Run both servers."""
    fake = FakeHub()
    servers = [
        _Server(("127.0.0.1", 0), type(base.__name__, (base,), {"fake": fake}))
        for base in (_Hub, _Cdn)
    ]
    fake.hub_port, fake.cdn_port = (server.server_address[1] for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.05,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield fake
    finally:
        for served in fake.files.values():
            served.go.set()
        for server in servers:
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join(60)
