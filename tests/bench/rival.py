"""comfy-api-proxy, which polls are compared with: fetched from PyPI, started on the same engine."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.chaos.processes import until
from tests.ports import free_port

VERSION = "0.1.6"
NAME = f"comfy-api-proxy {VERSION}"


class Unavailable(Exception):
    """It cannot be had or started here; the text says why."""


def installed() -> Path:
    """Its command, installed into a folder of its own among the temporary files.

    Raises:
        Unavailable: It cannot be installed.
    """
    folder = Path(tempfile.gettempdir()) / f"bench-comfy-api-proxy-{VERSION}"
    command = folder / "bin" / "comfy-api-proxy"
    if command.exists():
        return command
    _do(sys.executable, "-m", "venv", str(folder))
    pip = (str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet")
    _do(*pip, "--disable-pip-version-check", f"comfy-api-proxy=={VERSION}")
    return command


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise Unavailable(f"`{' '.join(command[-3:])}` failed: {' '.join(last)}")


@contextmanager
def running(engine_url: str, directory: Path) -> Iterator[str]:
    """Serve it in front of an engine; gives its address.

    Raises:
        Unavailable: It cannot be installed or does not answer.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(installed()), "run", "--comfyui", engine_url, "--port", str(port)]
    log = directory / "rival.log"
    with log.open("wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=output, cwd=directory)
    try:
        try:
            until(lambda: _answers(url), seconds=20, what="comfy-api-proxy answers")
        except AssertionError as error:
            raise Unavailable(f"{error}: {log.read_text()[-300:]}") from error
        yield url
    finally:
        child.terminate()
        child.wait(20)


def run_one(url: str, graph: dict[str, Any]) -> str:
    """Run a graph through it to its end; the path of its job.

    Raises:
        Unavailable: It refused, or the job failed.
    """
    answer = httpx.post(f"{url}/api/v2/jobs", json={"workflow": graph}, timeout=20)
    if not answer.is_success:
        raise Unavailable(f"it refused the graph: {answer.text[:300]}")
    path = f"/api/v2/jobs/{answer.json()['id']}"

    def over() -> str | None:
        status = str(httpx.get(f"{url}{path}", timeout=20).json()["status"])
        return status if status not in {"queued", "running"} else None

    status = until(over, seconds=30, what="comfy-api-proxy's job ends")
    if status != "succeeded":
        raise Unavailable(f"its job ended as {status}")
    return path


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/api/v2/health", timeout=5).is_success
    except httpx.HTTPError:
        return False
