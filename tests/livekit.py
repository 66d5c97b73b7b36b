"""A gateway and its stand-in engine as processes, for tests that talk over the wire."""

from __future__ import annotations

import json
import os
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from app.cli.children import Child
from app.client import GatewayClient
from app.workflows.registry import load_workflows, standin_models
from tests.chaos.processes import until

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
    models = directory / "models.json"
    models.write_text(json.dumps(standin_models(load_workflows(ROOT / "workflows"))))
    engine = Child(
        name="The stand-in",
        arguments=[
            *("-m", "app.standin", "--port", "0", "--version", "0.28.1"),
            *("--directory", str(directory / "comfyui"), "--models-from", str(models)),
            *("--step-seconds", str(step_seconds)),
        ],
        log=directory / "stand-in.log",
        environ=environment(),
    )
    with engine:
        engine_url = engine.announced(seconds=120)
        gateway = Child(
            name="The gateway",
            arguments=["-m", "app.cli", "serve", "--port", "0", "--announce"],
            log=directory / "gateway.log",
            environ=environment(
                GATEWAY_DATA_DIR=str(directory / "gateway"),
                GATEWAY_COMFYUI_URLS=engine_url,
                GATEWAY_ADMISSION="off",
                GATEWAY_MIN_FREE_BYTES="0",
                **settings,
            ),
        )
        with gateway:
            url = gateway.announced(seconds=120)
            with GatewayClient(url) as client:
                until(lambda: client.ready().ready, what="the gateway is ready")
            yield Live(url, engine_url, directory / "gateway")


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
