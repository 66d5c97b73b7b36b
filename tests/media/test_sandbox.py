"""Whatever a file does to its decoder, the gateway lives and says so in words."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from app.errors import GatewayError, UnsupportedMedia
from app.media.limits import MediaLimits
from app.media.sandbox import Sandbox


@pytest.fixture
async def bad() -> AsyncIterator[Sandbox]:
    limits = MediaLimits(memory_bytes=512 << 20, output_bytes=1000)
    box = Sandbox(limits=limits, tasks="tests.media.badtasks")
    yield box
    await box.aclose()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110 - another process has no event of ours
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def test_a_hanging_decoder_is_killed_in_time(bad: Sandbox) -> None:
    begun = time.monotonic()
    with pytest.raises(UnsupportedMedia, match=r"longer than 0\.3 seconds"):
        await bad.run("hang", seconds=0.3)
    assert time.monotonic() - begun < 60


async def test_a_crashing_decoder_refuses_its_file_and_no_other(bad: Sandbox) -> None:
    with pytest.raises(UnsupportedMedia, match="stopped the decoder"):
        await bad.run("crash", seconds=60)
    assert await bad.run("eat", seconds=60, mib=1) == {"bytes": 1 << 20}


async def test_the_memory_limit_holds(bad: Sandbox) -> None:
    assert await bad.run("eat", seconds=60, mib=64) == {"bytes": 64 << 20}
    with pytest.raises(UnsupportedMedia, match="512 MiB"):
        await bad.run("eat", seconds=60, mib=600)


async def test_the_output_limit_holds(bad: Sandbox, tmp_path: Path) -> None:
    await bad.run("write", seconds=60, path=str(tmp_path / "small"), size=1000)
    with pytest.raises(UnsupportedMedia):
        await bad.run("write", seconds=60, path=str(tmp_path / "large"), size=1001)
    assert (tmp_path / "large").stat().st_size == 1000


async def test_a_canceled_task_leaves_no_process(bad: Sandbox, tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    task = asyncio.create_task(bad.run("wait", seconds=60, path=str(marker)))
    await until(lambda: marker.exists() and marker.read_text() != "")
    pid = int(marker.read_text())
    assert alive(pid)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not alive(pid))


async def test_every_file_meets_a_fresh_process(bad: Sandbox) -> None:
    first, second = [await bad.run("nursery", seconds=60) for _ in range(2)]
    assert first["pid"] != second["pid"]
    assert first["parent"] == second["parent"]


async def test_a_killed_nursery_is_replaced(bad: Sandbox) -> None:
    nursery = (await bad.run("nursery", seconds=60))["parent"]
    os.kill(nursery, signal.SIGKILL)
    await until(lambda: not alive(nursery))
    answers = await asyncio.gather(*(bad.run("nursery", seconds=60) for _ in range(4)))
    assert len({answer["parent"] for answer in answers}) == 1
    assert answers[0]["parent"] != nursery


async def test_the_nursery_ends_when_idle_and_comes_back_when_needed() -> None:
    box = Sandbox(limits=MediaLimits(), tasks="tests.media.badtasks", idle_seconds=0.05)
    assert not box.running
    nursery = (await box.run("nursery", seconds=60))["parent"]
    await until(lambda: not box.running and not alive(nursery))
    assert (await box.run("nursery", seconds=60))["parent"] != nursery
    await box.aclose()


async def test_tools_that_cannot_start_are_the_gateways_fault_not_the_files() -> None:
    box = Sandbox(limits=MediaLimits(), tasks="tests.media.no_such_module")
    with pytest.raises(GatewayError) as caught:
        await box.run("probe", seconds=60)
    assert caught.value.code == "internal-error"
    await box.aclose()


async def test_children_get_no_secrets(bad: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_SECRET", "hidden")
    environment = await bad.run("environment", seconds=60)
    assert "GATEWAY_SECRET" not in environment
    assert "PATH" in environment


def test_the_gateway_itself_never_loads_a_codec() -> None:
    code = (
        "import sys, app.media.intake, app.media.prepare, app.media.output, app.media.retention;"
        "print([name for name in ('av', 'PIL', 'numpy') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
