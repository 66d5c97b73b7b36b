"""The processes of a fleet: API processes, and workers each with a stand-in of its own."""

from __future__ import annotations

from pathlib import Path

from tests import forked
from tests.chaos.processes import Engine, Gateway


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

    def launch(self, **more: str) -> None:
        """Start without waiting for an answer."""
        self._run(forked.STEADYDANCER, self.command, **{**self.environ, **more})

    def start(self, **more: str) -> None:
        self.launch(**more)
        self.wait()

    def wait(self) -> None:
        self._come_up("the process")
        assert self.alive, self.tail()


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
