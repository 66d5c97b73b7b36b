"""A real PostgreSQL server for tests: made in a folder, on a free port, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from tests.ports import free_port

_START_SECONDS = 120.0


def find_binaries() -> Path | None:
    """Where `initdb` and `postgres` are: Debian keeps them out of PATH."""
    on_path = shutil.which("initdb")
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    found = Path(on_path).resolve() if on_path else next(iter(places), None)
    return found.parent if found is not None else None


def need_postgres() -> Path:
    """The binaries; without them the test is skipped, or fails where nothing may be skipped."""
    found = find_binaries()
    if found is not None:
        return found
    reason = "no PostgreSQL server: apt-get install postgresql"
    if os.environ.get("GATEWAY_TEST_NO_SKIP") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass
class Server:
    """A cluster. It refuses to run as root, so root's is run by the user `nobody`."""

    binaries: Path
    directory: Path
    port: int = field(default_factory=free_port)
    settings: tuple[str, ...] = ()
    _process: subprocess.Popen[bytes] | None = None
    _made: int = 0

    @property
    def _user(self) -> str | None:
        return "nobody" if os.geteuid() == 0 else None

    def initialize(self) -> None:
        self.directory.mkdir(parents=True)
        if self._user is not None:
            # Pytest's folders are closed to others, and so are all above them.
            shutil.chown(self.directory, self._user)
        subprocess.run(
            [
                *(str(self.binaries / "initdb"), "-D", str(self.directory / "data")),
                *("-U", "postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"),
            ],
            user=self._user,
            check=True,
            capture_output=True,
            cwd="/",
            timeout=_START_SECONDS,
        )

    def start(self) -> None:
        quick = (
            "fsync=off",
            "full_page_writes=off",
            "max_connections=200",
            "shared_buffers=64MB",
            *self.settings,
        )
        settings = [word for one in quick for word in ("-c", one)]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(str(self.binaries / "postgres"), "-D", str(self.directory / "data")),
                    *("-p", str(self.port), *settings),
                    *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
                ],
                user=self._user,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(psycopg.OperationalError), self.connect("postgres"):
                return
            time.sleep(0.05)
        raise AssertionError((self.directory / "log").read_text(errors="replace")[-3000:])

    def stop(self) -> None:
        """End without waiting for clients."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Kill -9 the server with all its processes."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(20)
        self._process = None
        (self.directory / "data" / "postmaster.pid").unlink(missing_ok=True)

    def connect(self, database: str) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="postgres",
            dbname=database,
            autocommit=True,
            connect_timeout=5,
        )

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    def create(self, *, template: str | None = None) -> str:
        """Make a database; its name."""
        self._made += 1
        name = f"gateway_{self._made}"
        with self.connect("postgres") as connection:
            connection.execute(
                f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else "")
            )
        return name

    def drop(self, name: str) -> None:
        with self.connect("postgres") as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@contextmanager
def running_postgres(*settings: str) -> Iterator[Server]:
    """A server for the length of the block, in a folder that its user can reach."""
    binaries = need_postgres()
    place = Path(os.environ.get("TMPDIR", "/tmp")) / f"gateway-postgres-{os.getpid()}"
    server = Server(binaries, place, settings=settings)
    if server._user is not None:
        pwd.getpwnam(server._user)
    try:
        server.initialize()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(place, ignore_errors=True)
