"""The whole gateway on a real NVIDIA card. By hand: `python tests/gpu_real/gateway_check.py`.

The gateway reads real NVML; the stand-in ComfyUI, which it owns, holds real CUDA memory through
PyTorch; another process takes the card away. Needs PyTorch with CUDA and a card with 24 GiB free.
Prints one line for each promise and exits 1 if one is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import httpx  # noqa: E402 - the path comes first
import pynvml  # noqa: E402

from app.comfy.supervisor import marked  # noqa: E402
from tests.chaos.processes import Gateway, until  # noqa: E402
from tests.ports import free_port  # noqa: E402

MIB = 1024 * 1024
TAKE = """
import sys, time, torch
kept = torch.zeros(int(sys.argv[1]) * 1048576, dtype=torch.uint8, device="cuda:0")
torch.cuda.synchronize()
print("taken", flush=True)
time.sleep(600)
"""


class Findings:
    """What was seen, promise by promise."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(self, promise: str, *, kept: bool, seen: str) -> None:
        self.rows.append({"promise": promise, "kept": kept, "seen": seen})
        print(f"{'kept  ' if kept else 'BROKEN'}  {promise}: {seen}", flush=True)


class Card:
    """The card as this script sees it, beside the gateway's own reading."""

    def __init__(self, uuid: str | None = None) -> None:
        pynvml.nvmlInit()
        self._handle = (
            pynvml.nvmlDeviceGetHandleByIndex(0)
            if uuid is None
            else pynvml.nvmlDeviceGetHandleByUUID(uuid)
        )
        self.uuid = str(pynvml.nvmlDeviceGetUUID(self._handle))
        self.name = str(pynvml.nvmlDeviceGetName(self._handle))
        memory = pynvml.nvmlDeviceGetMemoryInfo(self._handle, version=pynvml.nvmlMemory_v2)
        self.total_mib = memory.total // MIB

    @property
    def free_mib(self) -> int:
        memory = pynvml.nvmlDeviceGetMemoryInfo(self._handle, version=pynvml.nvmlMemory_v2)
        return int(memory.free // MIB)

    def held_by(self, pid: int) -> int | None:
        for process in pynvml.nvmlDeviceGetComputeRunningProcesses(self._handle):
            if process.pid == pid and process.usedGpuMemory is not None:
                return int(process.usedGpuMemory // MIB)
        return None


@contextmanager
def somebody_else(mib: int, *, uuid: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds so much of the first card, or of the one with that UUID."""
    environ = {**os.environ, **({"CUDA_VISIBLE_DEVICES": uuid} if uuid is not None else {})}
    child = subprocess.Popen(
        [sys.executable, "-c", TAKE, str(mib)], stdout=subprocess.PIPE, env=environ
    )
    assert child.stdout is not None
    assert child.stdout.readline().strip() == b"taken", "the card could not be taken"
    try:
        yield child
    finally:
        child.kill()
        child.wait()


@contextmanager
def gateway(
    directory: Path, *, need_mib: int, engines: int = 1, **settings: str
) -> Iterator[Gateway]:
    """A gateway that owns stand-ins whose jobs take so much of their card."""
    urls = [f"http://127.0.0.1:{free_port()}" for _ in range(engines)]
    engine = directory / "engine"
    engine.mkdir(parents=True)
    models = directory / "models.json"
    from app.workflows.registry import load_workflows, standin_models

    models.write_text(json.dumps(standin_models(load_workflows(ROOT / "workflows"))))
    command = (
        f"{sys.executable} -m app.standin --port {{port}} --directory {engine}/{{port}} --no-work "
        f"--step-seconds 0.5 --cuda-allocate --need-mib {need_mib} --models-from {models}"
    )
    one = Gateway(
        directory / "gateway",
        " ".join(urls),
        GATEWAY_ADMISSION="nvml",
        GATEWAY_COMFYUI_COMMAND=command,
        **settings,
    )
    one.start()
    try:
        until(lambda: all_ready(one, engines), seconds=120, what="the engines are ready")
        yield one
    finally:
        one.stop()


def all_ready(one: Gateway, engines: int) -> bool:
    return all(engine_of(one, number)["state"] == "ready" for number in range(engines))


def engine_of(one: Gateway, number: int = 0) -> dict[str, Any]:
    return dict(httpx.get(f"{one.url}/v1/system", timeout=10).json()["engines"][number])


def standin(one: Gateway, path: str, **body: Any) -> Any:
    url = one.environ["GATEWAY_COMFYUI_URLS"]
    if body:
        return httpx.post(f"{url}{path}", json=body, timeout=10).raise_for_status()
    return httpx.get(f"{url}{path}", timeout=10).json()


def submit(one: Gateway, key: str, **request: Any) -> str:
    job_id = one.submit(key, workflow="steadydancer", prompt="a person dancing", **request)
    assert job_id is not None
    return job_id


def seconds_between(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def check_waits_for_others(one: Gateway, card: Card, seen: Findings, need: int) -> None:
    with somebody_else(card.free_mib - need // 2):
        job_id = submit(one, "waits")
        until(
            lambda: one.job(job_id)["phase"] == "waiting_for_vram",
            seconds=30,
            what="the job waits for memory",
        )
        time.sleep(3)
        job = one.job(job_id)
        still = job["phase"] == "waiting_for_vram" and job["status"] == "queued"
        words = job["waiting"]["detail"]
    gone_at = datetime.now(UTC)
    seen.add(
        "(a) a job waits while another process has the card, and says so", kept=still, seen=words
    )
    until(lambda: one.job(job_id)["status"] != "queued", seconds=30, what="the job starts")
    events = one_log(one, job_id)
    started = next(event["at"] for event in events if event["type"] == "job.running")
    waited = seconds_between(gone_at.isoformat(), started)
    seen.add("(a) it starts within 2 s of the other's end", kept=waited < 2, seen=f"{waited:.2f} s")
    job = one.ended(job_id, seconds=120)
    seen.add("(a) it succeeds", kept=job["status"] == "succeeded", seen=str(job["error"]))


def one_log(one: Gateway, job_id: str) -> list[dict[str, Any]]:
    one.ended(job_id, seconds=120)
    return one.events(job_id)


def check_cache_is_room(one: Gateway, card: Card, seen: Findings, need: int) -> None:
    pid = engine_pid(one)
    held = card.held_by(pid)
    with somebody_else(max(card.free_mib - need // 3, 64)):
        free = card.free_mib
        job = one.ended(submit(one, "cached"), seconds=120)
        waits = [
            event for event in one.events(job["id"]) if "waiting_for_vram" in str(event["data"])
        ]
    kept = job["status"] == "succeeded" and not waits and free < need
    words = f"need {need} MiB, only {free} MiB free, engine held {held} MiB: {job['status']}"
    seen.add("(b) what ComfyUI itself holds counts as room", kept=kept, seen=words)


def check_learned(one: Gateway, card: Card, seen: Findings) -> None:
    held = card.held_by(engine_pid(one))
    job = one.ended(submit(one, "learns"), seconds=120)
    peak = job["usage"]["peak_vram_mib"]
    if held is None or peak is None:
        seen.add("(e) the learned peak", kept=False, seen=f"peak {peak}, NVML says {held}")
        return
    off = (peak - held) / held * 100
    words = f"{peak} MiB learned, {held} MiB by NVML: {off:+.2f} %"
    seen.add("(e) the learned peak is within 5 % of what was taken", kept=abs(off) <= 5, seen=words)


def check_out_of_memory(one: Gateway, seen: Findings) -> None:
    standin(one, "/standin/misbehave", mode="out_of_memory", times=1)
    job = one.ended(submit(one, "oom-once"), seconds=120)
    losses = [event["data"].get("loss") for event in one.events(job["id"])]
    kept = job["status"] == "succeeded" and job["attempt"] == 2 and "out-of-memory" in losses
    seen.add(
        "(d) out of memory once: freed, tried again with low memory, succeeded",
        kept=kept,
        seen=f"{job['status']} in attempt {job['attempt']}",
    )
    standin(one, "/standin/misbehave", mode="out_of_memory", times=5)
    job = one.ended(submit(one, "oom-twice"), seconds=120)
    standin(one, "/standin/behave", mode="all")
    kind = (job["error"] or {}).get("type")
    seen.add(
        "(d) out of memory twice: failed with advice, no loop",
        kept=kind == "out-of-memory" and job["attempt"] == 2,
        seen=f"{kind} after attempt {job['attempt']}: {(job['error'] or {}).get('advice')}",
    )


def check_never_fits(directory: Path, card: Card, seen: Findings) -> None:
    margin = str(card.total_mib - 12_000)
    with gateway(directory, need_mib=1000, GATEWAY_VRAM_MARGIN_MIB=margin) as one:
        until(lambda: engine_of(one)["gpu"], seconds=20, what="the card was read")
        files = {
            "reference_image": (ROOT / "docs/samples/photo.jpg").read_bytes(),
            "driving_video": (ROOT / "docs/samples/dance.mp4").read_bytes(),
        }
        asked = {"workflow": "steadydancer", "request": {"prompt": "x", "preset": "720p"}}
        answer = httpx.post(
            f"{one.url}/v1/jobs", data={"job": json.dumps(asked)}, files=files, timeout=60
        )
        problem = answer.json()
        taken = [
            httpx.post(
                f"{one.url}/v1/jobs",
                data={"job": json.dumps({**asked, "request": {"prompt": "x", **fit["overrides"]}})},
                files=files,
                timeout=60,
            ).status_code
            for fit in problem.get("fits", ())
        ]
    kept = answer.status_code == 422 and problem["code"] == "never-fits"
    seen.add(
        "(c) a need above the card is refused at once", kept=kept, seen=problem.get("detail", "")
    )
    seen.add(
        "(c) what it says would fit is taken",
        kept=bool(taken) and set(taken) == {202},
        seen=f"{[fit['overrides'] for fit in problem.get('fits', ())]}: {taken}",
    )


def check_real_out_of_memory(directory: Path, card: Card, seen: Findings) -> None:
    """The engine takes more than the card has, which nobody foresaw: torch itself raises."""
    with gateway(directory, need_mib=card.total_mib + 4096) as one:
        before = estimate(one)
        job = one.ended(submit(one, "too-much"), seconds=120)
        after = estimate(one)
    error = job["error"] or {}
    kept = error.get("type") == "out-of-memory" and job["attempt"] == 2
    seen.add(
        "(d) torch runs out of memory twice: failed with advice, no loop",
        kept=kept,
        seen=f"{error.get('type')} after attempt {job['attempt']}: {error.get('detail')}",
    )
    seen.add(
        "(d) what was learned is raised",
        kept=bool(after["learned"]) and after["need_mib"] > before["need_mib"],
        seen=f"need {before['need_mib']} MiB before, {after['need_mib']} MiB after",
    )


def estimate(one: Gateway) -> dict[str, Any]:
    """The need of the jobs that `submit` makes: as many frames as one job takes at most."""
    request = {"prompt": "a person dancing", "frames": 81}
    url = f"{one.url}/v1/workflows/steadydancer/estimate"
    return dict(httpx.post(url, json={"request": request}, timeout=10).json())


def engine_pid(one: Gateway, number: int = 0) -> int:
    return marked(str((one.directory / "engines" / f"engine-{number}.log").resolve())) or 0


def check_cost(one: Gateway, seen: Findings) -> None:
    ticks = os.sysconf("SC_CLK_TCK")

    def cpu() -> float:
        fields = Path(f"/proc/{one.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / ticks

    before, began = cpu(), time.monotonic()
    time.sleep(10)
    share = (cpu() - before) / (time.monotonic() - began) * 100
    seen.add(
        "(f) an idle gateway that watches the card", kept=share < 5, seen=f"{share:.2f} % of a core"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write what was seen to this file")
    parser.add_argument("--need-mib", type=int, default=12_000)
    wanted = parser.parse_args()
    card, seen = Card(), Findings()
    print(f"{card.name}, {card.total_mib} MiB, {datetime.now(UTC).date()}", flush=True)
    need: int = wanted.need_mib
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        with gateway(directory / "a", need_mib=need) as one:
            check_waits_for_others(one, card, seen, need)
            check_cache_is_room(one, card, seen, need)
            check_learned(one, card, seen)
            check_out_of_memory(one, seen)
            check_cost(one, seen)
        check_never_fits(directory / "c", card, seen)
        check_real_out_of_memory(directory / "d", card, seen)
    if wanted.json:
        wanted.json.write_text(
            json.dumps(
                {"card": card.name, "total_mib": card.total_mib, "seen": seen.rows}, indent=1
            )
        )
    return 0 if all(row["kept"] for row in seen.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
