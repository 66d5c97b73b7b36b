"""Servers for the benchmark, their memory, and the sizes of a run."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from app.cli.children import Child
from tests.chaos.processes import SAMPLE_FILES, SAMPLES, Engine, until
from tests.livekit import environment

ROOT = Path(__file__).resolve().parents[2]

NOBODY = "http://127.0.0.1:9"
"""An engine that is not there."""

SMOKE = {"width": 64, "height": 64, "frames": 5}
"""The least that the stand-in is asked to make."""

IDLE_SECONDS = 2.0
"""A connection that was idle for longer is not used again: the server ends it after five."""

ENDED = {"succeeded", "failed", "canceled"}
_MIB = 1024.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured: the full run, or a short one to see that the command works."""

    queued: int = 50
    singles: int = 60
    repeats: int = 3
    seconds: float = 4.0
    small_store: int = 1_000
    large_store: int = 100_000
    page_calls: int = 150
    watchers: int = 100
    downloads_mib: tuple[int, ...] = (1, 16, 256)
    upload_mib: int = 500
    queued_at_start: int = 10_000
    jobs_for_bytes: int = 200
    cancels: int = 30
    decisions: int = 50_000


QUICK = Sizes(
    queued=8,
    singles=6,
    repeats=2,
    seconds=0.5,
    small_store=200,
    large_store=2_000,
    page_calls=15,
    watchers=10,
    downloads_mib=(1, 4),
    upload_mib=20,
    queued_at_start=500,
    jobs_for_bytes=10,
    cancels=4,
    decisions=2_000,
)


class Lab:
    """Where one run of the benchmark works, and what it started; all of it ends with the block."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self._stack = ExitStack()
        self._count = 0

    def __enter__(self) -> Self:
        self.directory = Path(self._stack.enter_context(TemporaryDirectory(prefix="bench-")))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def folder(self, name: str) -> Path:
        """A new folder."""
        self._count += 1
        made = self.directory / f"{self._count:02}-{name}"
        made.mkdir()
        return made

    @contextmanager
    def engine(self, *options: str) -> Iterator[Engine]:
        """A stand-in that makes no frames and takes no time, unless the options say otherwise."""
        default = ("--no-work", "--step-seconds", "0")
        engine = Engine(self.folder("engine"), *default, *options)
        engine.start()
        try:
            yield engine
        finally:
            engine.kill()

    @contextmanager
    def gateway(
        self, engine_url: str = NOBODY, *, directory: Path | None = None, **settings: str
    ) -> Iterator[Served]:
        """`steadydancer serve`; with an engine given, it waits until a job could run."""
        directory = directory or self.folder("gateway")
        child = start(directory, engine_url, settings=settings)
        with child:
            served = Served(child.announced(seconds=120), pid_of(child), directory)
            if engine_url != NOBODY:
                until(
                    lambda: served.call("GET", "/readyz")[0] == 200,
                    seconds=30,
                    what=f"the gateway is ready; its log ends: {child.tail()}",
                )
            yield served


def start(
    directory: Path, engine_url: str, *, port: int = 0, settings: dict[str, str] | None = None
) -> Child:
    """Start a gateway, on a free port if none is given, and wait for nothing."""
    return Child(
        name="The gateway",
        arguments=["-m", "app.cli", "serve", "--port", str(port), "--announce"],
        log=directory / "gateway.log",
        environ=environment()
        | {
            "GATEWAY_DATA_DIR": str(directory),
            "GATEWAY_COMFYUI_URLS": engine_url,
            "GATEWAY_ADMISSION": "off",
            "GATEWAY_MIN_FREE_BYTES": "0",
            "GATEWAY_MAX_QUEUED_JOBS": "10000000",
            # As where it is installed: compiled once, whatever this environment says.
            "PYTHONDONTWRITEBYTECODE": "",
            **(settings or {}),
        },
    )


def pid_of(child: Child) -> int:
    """The server's process: `app.cli.child` becomes it, so that the number stays."""
    return child._process.pid


class Served:
    """A gateway that answers, and one keep-alive connection to it."""

    def __init__(self, url: str, pid: int, directory: Path) -> None:
        self.url = url
        self.pid = pid
        self.directory = directory
        self._connection: http.client.HTTPConnection | None = None
        self._used = 0.0

    def call(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """One call: status, headers in lowercase, body."""
        now = time.monotonic()
        if self._connection is not None and now - self._used > IDLE_SECONDS:
            self._connection.close()
            self._connection = None
        if self._connection is None:
            self._connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=120)
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        if isinstance(body, dict):
            headers["Content-Type"] = "application/json"
        try:
            self._connection.request(method, path, data, headers)
            answer = self._connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            text = answer.read()
            self._used = time.monotonic()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            self._connection = None
            raise
        return answer.status, found, text

    def json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """One call that must succeed, and its JSON."""
        status, _, answer = self.call(method, path, body)
        assert status < 300, f"{method} {path}: {status} {answer[:500]!r}"
        return dict(json.loads(answer))

    def uploads(self) -> dict[str, dict[str, str]]:
        """Upload the samples: the media fields of a request."""
        return {
            field: {
                "upload_id": self.json("POST", "/v1/uploads", (SAMPLES / name).read_bytes())["id"]
            }
            for field, name in SAMPLE_FILES.items()
        }

    def submit(self, body: dict[str, Any]) -> str:
        """Submit a job; its id."""
        return str(self.json("POST", "/v1/jobs", body)["id"])

    def ended(self, job_id: str, *, seconds: float = 120) -> dict[str, Any]:
        """Wait for a job's end by long polls; the job."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            job = self.json("GET", f"/v1/jobs/{job_id}?wait=20")
            if job["status"] in ENDED:
                return job
        raise AssertionError(f"job {job_id} is still {job['status']}")

    def succeeded(self, job_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Wait for the end of all, which must be a success; the jobs."""
        jobs = [self.ended(one) for one in job_ids]
        bad = [job for job in jobs if job["status"] != "succeeded"]
        assert not bad, f"{len(bad)} jobs did not succeed: {bad[0]}"
        return jobs


def smoke(uploads: dict[str, dict[str, str]], **more: Any) -> dict[str, Any]:
    """The body of a submission of the smallest job."""
    return {"workflow": "smoke", "request": {**SMOKE, **uploads}, **more}


def dance(uploads: dict[str, dict[str, str]], **more: Any) -> dict[str, Any]:
    """The body of a submission of a small job of the main workflow."""
    small = {"prompt": "a person is dancing", "width": 256, "height": 448, "frames": 33}
    return {"workflow": "steadydancer", "request": {**small, **uploads, **more}}


def runs(engine: Engine) -> dict[str, dict[str, float]]:
    """Each prompt's stamps from the stand-in's log: event to monotonic seconds of this machine."""
    found: dict[str, dict[str, float]] = {}
    for prompt_id, prompt in engine.stats()["prompts"].items():
        found[prompt_id] = {
            entry["event"]: entry["monotonic_ns"] / 1e9 for entry in prompt["events"]
        }
    return found


# --- memory --------------------------------------------------------------------------------------


def rss_mib(pid: int) -> float:
    """Resident memory of a process, in MiB."""
    return _field(Path(f"/proc/{pid}/status"), "VmRSS:") / _MIB


def pss_mib(pid: int) -> float:
    """Its memory with each shared page counted by its share, in MiB."""
    return _field(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") / _MIB


def tree_pss_mib(pid: int) -> float:
    """The same for a process and all below it: the gateway's decoders are children."""
    total = pss_mib(pid)
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            try:
                total += tree_pss_mib(int(child))
            except (OSError, ValueError):  # it has just ended
                continue
    return total


def _field(path: Path, name: str) -> float:
    for line in path.read_text().splitlines():
        if line.startswith(name):
            return float(line.split()[1])
    raise ValueError(f"{path} has no {name}")


class MemoryWatch:
    """Samples a process' memory from a thread while the block runs.

    Attributes:
        before: Resident MiB at the start.
        peak: The most that was seen.
    """

    def __init__(self, pid: int, *, every_seconds: float = 0.02) -> None:
        self._pid = pid
        self._every = every_seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self.before = self.peak = rss_mib(self._pid)
        self.tree_before = self.tree_peak = tree_pss_mib(self._pid)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    @property
    def growth(self) -> float:
        """MiB that the process grew at most."""
        return self.peak - self.before

    @property
    def tree_growth(self) -> float:
        """MiB that it and its children grew at most."""
        return self.tree_peak - self.tree_before

    def _watch(self) -> None:
        number = 0
        while not self._over.wait(self._every):
            self.peak = max(self.peak, rss_mib(self._pid))
            number += 1
            if number % 5 == 0:
                self.tree_peak = max(self.tree_peak, tree_pss_mib(self._pid))
