"""A gateway and its stand-in engine as processes, for tests that talk over the wire."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from app.client import GatewayClient
from tests.chaos.processes import Engine, Gateway, until

ROOT = Path(__file__).resolve().parents[1]
PHOTO = ROOT / "docs" / "samples" / "photo.jpg"
DANCE = ROOT / "docs" / "samples" / "dance.mp4"
FILES = {"reference_image": PHOTO, "driving_video": DANCE}


@dataclass(frozen=True)
class Live:
    """Two servers that answer."""

    url: str
    engine_url: str
    data_dir: Path


def environment(**more: str) -> dict[str, str]:
    """This process's, without what would reach into a test."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GATEWAY_", "STEADYDANCER_"))
    }
    return {**kept, **more}


@contextmanager
def live(directory: Path, *, step_seconds: float = 0.02, **settings: str) -> Iterator[Live]:
    """Start both, give them when a job could run, stop both."""
    engine = Engine(directory / "comfyui", "--step-seconds", str(step_seconds))
    gateway = Gateway(directory / "gateway", engine.url, **settings)
    try:
        engine.start()
        gateway.start()
        with GatewayClient(gateway.url) as client:
            until(lambda: client.ready().ready, what="the gateway is ready")
        yield Live(gateway.url, engine.url, gateway.directory)
        gateway.stop()
    finally:
        gateway.kill()
        engine.kill()


class Cutter:
    """A TCP relay before the gateway that loses connections when it is told to.

    Attributes:
        requests: Head of every request that came through.
    """

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._target = (host, int(port))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.requests: list[str] = []
        self._orders: list[int | None] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def cut(self, *after_bytes: int | None) -> None:
        """Lose the next connections, each after so many bytes of the answer; None leaves one."""
        self._orders = list(after_bytes)

    def close(self) -> None:
        """Accept no more."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            order = self._orders.pop(0) if self._orders else None
            threading.Thread(target=self._relay, args=(near, order), daemon=True).start()

    def _relay(self, near: socket.socket, allowed: int | None) -> None:
        with near, suppress(OSError), socket.create_connection(self._target) as far:
            while True:
                for side in select.select([near, far], [], [], 60)[0]:
                    data = side.recv(65_536)
                    if not data:
                        return
                    if side is near:
                        if data.startswith((b"GET ", b"POST ", b"DELETE ")):
                            self.requests.append(data.partition(b"\r\n\r\n")[0].decode())
                        far.sendall(data)
                        continue
                    if allowed is not None:
                        data, allowed = data[:allowed], allowed - len(data)
                    near.sendall(data)
                    if allowed is not None and allowed <= 0:
                        return
