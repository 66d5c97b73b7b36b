"""The processes of a fleet: API processes, and workers each with a stand-in of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.chaos.processes import ROOT, Engine, Gateway, until


class Member(Gateway):
    """A process of the fleet: `serve` or `worker` on a shared store."""

    command = "serve"

    def __init__(self, directory: Path, engine_url: str, database: str, **settings: str) -> None:
        shared = {
            "GATEWAY_DATABASE_URL": database,
            "GATEWAY_WORKER_LEASE_SECONDS": "3",
            "GATEWAY_REQUESTS_PER_MINUTE": "1000000",
        }
        super().__init__(directory, engine_url, **{**shared, **settings})
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self, **more: str) -> None:
        """Start without waiting for an answer."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app.cli", self.command],
                cwd=ROOT,
                stdout=output,
                stderr=output,
                env={**os.environ, **self.environ, **more},
                start_new_session=True,
            )
        self.pid = self.process.pid

    def start(self, **more: str) -> None:
        self.launch(**more)
        self.wait()

    def wait(self) -> None:
        until(
            lambda: self.answers() or not self.alive,
            seconds=120,
            what=f"the process answers; its log ends: {self.tail()}",
        )
        assert self.alive, self.tail()

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Api(Member):
    """An API process."""

    def __init__(self, directory: Path, database: str, **settings: str) -> None:
        super().__init__(directory, "http://127.0.0.1:9", database, **settings)


class Worker(Member):
    """A worker beside its engine."""

    command = "worker"

    def __init__(
        self, directory: Path, database: str, name: str, *, step: str = "0.01", **settings: str
    ) -> None:
        self.engine = Engine(directory / "engine", "--no-work", "--step-seconds", step)
        self.name = name
        super().__init__(directory, self.engine.url, database, GATEWAY_WORKER_NAME=name, **settings)
