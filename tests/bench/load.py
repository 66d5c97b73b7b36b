"""A load client in a process of its own: many connections, one thread, nothing but sockets.

`python -m tests.bench.load` reads an order from standard input and writes what it saw to standard
output, both as JSON. It imports the standard library only, so that it starts at once, and handles
a response in some ten microseconds, so that it is not what is measured.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
_PIECE = 1 << 20


@dataclass
class Seen:
    """What a load client saw.

    Attributes:
        seconds: From the first request to the last answer.
        latencies: Seconds of each answer, from its request to its last byte.
        statuses: How often each status was answered.
        body_bytes: Bytes of all bodies.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    body_bytes: int = 0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds

    def only(self, status: int) -> Seen:
        """The same, if nothing else was answered.

        Raises:
            AssertionError: Something else was answered.
        """
        assert set(self.statuses) == {str(status)}, f"answered: {self.statuses}"
        return self


def get(path: str, **headers: str) -> str:
    """The text of a GET."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *lines, "", ""])


def post(path: str, body: Any) -> str:
    """The text of a POST with a JSON body."""
    text = json.dumps(body)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(text.encode())}\r\n\r\n{text}"


def drive(
    url: str,
    requests: Sequence[str],
    *,
    clients: int = 1,
    seconds: float = 60.0,
    count: int | None = None,
) -> Seen:
    """Send requests from a process of its own and wait until it is done.

    Args:
        url: Base of the server.
        requests: Whole requests, sent in turn by whichever connection is free.
        clients: Connections, each with one request at a time.
        seconds: No request is begun after so long.
        count: Most requests; None begins anew with the first for as long as there is time.
    """
    order = {
        "port": urlsplit(url).port,
        "requests": list(requests),
        "clients": clients,
        "seconds": seconds,
        "count": count,
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.load"],
        input=json.dumps(order).encode(),
        stdout=subprocess.PIPE,
        cwd=ROOT,
        check=True,
        timeout=seconds + 120,
    )
    return Seen(**json.loads(done.stdout))


class _Connection:
    """One keep-alive connection, and how much of its answer is still to come."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.began = 0.0
        self.status = ""
        self._head = b""
        self._left: int | None = None

    def send(self, request: bytes) -> None:
        """Begin a request."""
        self._head, self._left = b"", None
        self.began = time.perf_counter()
        self.socket.sendall(request)

    def receive(self, buffer: bytearray) -> tuple[bool, int]:
        """Take what came: whether the answer is complete, and how many bytes of body came."""
        size = self.socket.recv_into(buffer)
        if not size:
            raise ConnectionError("the server closed the connection in mid-answer")
        body = size
        if self._left is None:
            self._head += bytes(buffer[:size])
            head, end, rest = self._head.partition(b"\r\n\r\n")
            if not end:
                return False, 0
            self.status = head[9:12].decode()
            self._left = 0 if self.status == "304" else _length(head)
            body = len(rest)
        self._left -= body
        return self._left <= 0, body


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ValueError(f"an answer without a length: {head[:200]!r}")


def _run(
    *, port: int, requests: list[str], clients: int, seconds: float, count: int | None
) -> Seen:
    wire = [text.encode() for text in requests]
    connections = [_Connection(port) for _ in range(clients)]
    poller = select.epoll()
    by_number = {one.socket.fileno(): one for one in connections}
    seen, statuses, buffer = Seen(), Counter[str](), bytearray(_PIECE)
    sent = 0
    began = time.perf_counter()

    def go(one: _Connection) -> bool:
        nonlocal sent
        if (count is not None and sent >= count) or time.perf_counter() - began >= seconds:
            return False
        one.send(wire[sent % len(wire)])
        sent += 1
        return True

    for one in connections:
        poller.register(one.socket.fileno(), select.EPOLLIN)
    busy = sum([go(one) for one in connections])
    while busy:
        for handle, _ in poller.poll(60):
            one = by_number[handle]
            done, body = one.receive(buffer)
            seen.body_bytes += body
            if done:
                seen.latencies.append(time.perf_counter() - one.began)
                statuses[one.status] += 1
                busy -= not go(one)
    seen.seconds = time.perf_counter() - began
    seen.statuses = dict(statuses)
    return seen


if __name__ == "__main__":
    json.dump(asdict(_run(**json.load(sys.stdin))), sys.stdout)
