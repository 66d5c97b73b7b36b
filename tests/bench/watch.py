"""Many watchers of one event stream, in a process of their own: `python -m tests.bench.watch`.

It reads an order as JSON from standard input, prints a line when every watcher is connected, and in
the end the arrivals of each event as JSON.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]


class Watching:
    """Watchers that are connected."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child

    def arrivals(self) -> dict[str, list[float]]:
        """Wait for the stream's end: each event's id to its arrivals, in monotonic seconds."""
        assert self._child.stdout is not None
        found: dict[str, list[float]] = json.loads(self._child.stdout.readline())
        return found


@contextmanager
def watching(url: str, path: str, *, watchers: int) -> Iterator[Watching]:
    """Connect watchers to a stream; the block begins when each has got the first event."""
    order = json.dumps({"port": urlsplit(url).port, "path": path, "watchers": watchers})
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.watch"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(order.encode() + b"\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"connected\n", "the watchers could not connect"
        yield Watching(child)
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


def _run(*, port: int, path: str, watchers: int) -> dict[str, list[float]]:
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    poller = select.epoll()
    sockets: dict[int, socket.socket] = {}
    texts: dict[int, bytes] = {}
    for _ in range(watchers):
        one = socket.create_connection(("127.0.0.1", port))
        one.sendall(request)
        sockets[one.fileno()] = one
        texts[one.fileno()] = b""
        poller.register(one.fileno(), select.EPOLLIN)
    arrivals: dict[str, list[float]] = {}
    waiting, begun = set(sockets), False
    while sockets:
        for handle, _ in poller.poll(60):
            data = sockets[handle].recv(65_536)
            now = time.monotonic()
            *lines, texts[handle] = (texts[handle] + data).split(b"\n")
            for line in lines:
                if line.startswith(b"id:"):
                    arrivals.setdefault(line[3:].strip().decode(), []).append(now)
                    waiting.discard(handle)
            if not data or texts[handle].endswith(b"0\r") or b"0\r" in lines:
                poller.unregister(handle)
                sockets.pop(handle).close()
        if not waiting and not begun:
            begun = True
            sys.stdout.write("connected\n")
            sys.stdout.flush()
            arrivals.clear()
    return arrivals


def main() -> None:
    """Take the order, watch, tell."""
    order: dict[str, Any] = json.loads(sys.stdin.readline())
    sys.stdout.write(json.dumps(_run(**order)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
