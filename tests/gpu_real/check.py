"""Hold app/gpu against a real NVIDIA card. By hand: `python tests/gpu_real/check.py [--json FILE]`.

Needs PyTorch with CUDA and a card with 8 GiB free. Everything is measured with real CUDA memory,
taken by child processes of this script. Exits 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, quantiles
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import pynvml

from app.gpu.admission import (
    Admit,
    Candidate,
    FreeFirst,
    Never,
    Situation,
    Wait,
    capacity,
    choose,
    decide,
)
from app.gpu.card import Reading
from app.gpu.engine_memory import EngineMemory, Offset, engine_memory
from app.gpu.monitor import GpuMonitor
from app.gpu.nvml import Nvml, NvmlCard, list_cards
from app.gpu.sampler import PeakSampler

CHILD = """
import sys, torch
held = []
print("ready", flush=True)
for line in sys.stdin:
    word, *rest = line.split()
    if word == "context":
        torch.zeros(1, device="cuda")
    elif word == "take":
        held.append(torch.zeros(int(rest[0]) * 1024 * 1024, dtype=torch.uint8, device="cuda"))
    elif word == "drop":
        held.clear()
        torch.cuda.empty_cache()
    elif word == "kernels":
        a = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
        for _ in range(5):
            b = torch.nn.functional.scaled_dot_product_attention(
                a.view(1, 32, 4096, 128), a.view(1, 32, 4096, 128), a.view(1, 32, 4096, 128))
            a = (a @ a) * 1e-3
        del a, b
    torch.cuda.synchronize()
    print(torch.cuda.memory_reserved() // 1048576, flush=True)
"""

results: dict[str, Any] = {}
failures: list[str] = []


def say(name: str, value: object) -> None:
    results[name] = value
    print(f"{name}: {value}", flush=True)


def hold_to(promise: str, kept: bool) -> None:  # noqa: FBT001 - the second half of a sentence
    say(f"promise: {promise}", "kept" if kept else "BROKEN")
    if not kept:
        failures.append(promise)


class Holder:
    """A process of its own that takes and gives back CUDA memory on command."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()

    @property
    def pid(self) -> int:
        return self.process.pid

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the child died")
        return line.strip()

    def do(self, command: str) -> int:
        """Run a command; gives what torch has reserved then, in MiB."""
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return int(self._answer())

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def own_mib(reading: Reading, pid: int) -> int | None:
    return next((process.mib for process in reading.processes if process.pid == pid), None)


def readings(nvml: Nvml, card: NvmlCard) -> None:
    say("cards", [f"{one.index}: {one.name} {one.uuid} {one.bus_id}" for one in list_cards(nvml)])
    say("driver", str(pynvml.nvmlSystemGetDriverVersion()))
    reading = card.read()
    say("reading", str(reading))
    handle = pynvml.nvmlDeviceGetHandleByUUID(card.uuid)
    old = pynvml.nvmlDeviceGetMemoryInfo(handle)
    new = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    say("v1 MiB", {"used": old.used >> 20, "free": old.free >> 20, "total": old.total >> 20})
    say(
        "v2 MiB",
        {
            "used": new.used >> 20,
            "free": new.free >> 20,
            "total": new.total >> 20,
            "reserved": new.reserved >> 20,
        },
    )
    hold_to(
        "total = reserved + used + free",
        abs(new.total - new.reserved - new.used - new.free) < 2**21,
    )


def cost(card: NvmlCard) -> None:
    for light in (False, True):
        times = []
        cpu = time.thread_time()
        for _ in range(200):
            before = time.perf_counter()
            card.read(light=light)
            times.append((time.perf_counter() - before) * 1e6)
        cpu = (time.thread_time() - cpu) / 200
        name = "light" if light else "full"
        say(
            f"{name} read",
            f"mean {mean(times):.0f} us, p99 {quantiles(times, n=100)[98]:.0f} us, "
            f"CPU {cpu * 1e6:.0f} us; at 10 Hz {cpu * 10 * 100:.3f} % of a core",
        )


def ownership(card: NvmlCard, engine: Holder) -> tuple[bool, Offset]:
    before = card.read()
    torch_mib = engine.do("context")
    idle = card.read()
    say("context (device's change - torch)", idle.used_mib - before.used_mib - torch_mib)
    say("process list with one child", str(idle.processes))
    visible = own_mib(idle, engine.pid) is not None
    say("child's pid visible with memory", visible)
    offset = Offset().learn(idle, torch_mib=torch_mib)
    say("learned offset", str(offset))
    torch_mib = engine.do("take 4096")
    now = card.read()
    taken = now.used_mib - before.used_mib
    for source, memory in {
        "pid": engine_memory(now, pids=[engine.pid], torch_mib=torch_mib, offset=offset),
        "system_stats": engine_memory(now, torch_mib=torch_mib, offset=offset),
    }.items():
        say(f"held by {source}", f"{memory} (device's change: {taken})")
        if memory.source == source:
            share = abs((memory.held_mib or 0) - taken) / taken
            hold_to(f"held memory by {source} within 5 % of the change of the device", share < 0.05)
    engine.do("kernels")
    torch_mib = engine.do("drop")
    after = card.read()
    say(
        "kept after kernels ran and all was freed",
        after.used_mib - before.used_mib - torch_mib,
    )
    return visible, offset


async def peaks(card: NvmlCard, engine: Holder, *, visible: bool, offset: Offset) -> None:
    torch_idle = engine.do("context")
    start = card.read()
    by_pid = engine_memory(start, pids=[engine.pid], torch_mib=torch_idle, offset=offset)
    hidden = engine_memory(start, torch_mib=torch_idle, offset=offset)
    beside = (own_mib(start, engine.pid) or hidden.held_mib or 0) - torch_idle
    for memory in [by_pid, hidden] if visible else [hidden]:
        async with PeakSampler(card=card, engine=memory) as peak:
            most = 0
            for command, seconds in [
                ("take 2048", 0.5),
                ("take 3072", 0.3),
                ("drop", 0.3),
                ("take 1024", 0.5),
            ]:
                most = max(most, await asyncio.to_thread(engine.do, command))
                await asyncio.sleep(seconds)
        await asyncio.to_thread(engine.do, "drop")
        truth = most + beside
        measured = peak.peak_mib or 0
        say(
            f"peak by {peak.source}",
            f"{measured} MiB, really {truth} MiB ({(measured - truth) / truth:+.2%}), "
            f"{peak.samples} samples, {len(peak.timeline)} points",
        )
        hold_to(f"peak by {peak.source} within 5 %", abs(measured - truth) / truth < 0.05)


async def sampling_cost(card: NvmlCard, engine: EngineMemory, seconds: float) -> None:
    async with PeakSampler(card=card, engine=engine) as peak:
        await asyncio.sleep(seconds)
    share = peak.cpu_seconds / peak.wall_seconds
    say(
        "sampling at 10 Hz",
        f"{peak.samples} samples in {peak.wall_seconds:.1f} s, {share:.3%} of a core",
    )
    hold_to("sampling costs less than 1 % of a core", share < 0.01)
    hold_to("sampling keeps 10 Hz", peak.samples >= seconds * 9)


async def admission(card: NvmlCard, engine: Holder, *, visible: bool) -> None:
    margin = 512
    monitor = GpuMonitor(card=card, margin_mib=margin)
    torch_mib = engine.do("take 4096")
    pids = [engine.pid] if visible else []

    async def look(loaded: str | None) -> Situation:
        seen = await monitor.look(
            loaded=loaded, running_need_mib=None, pids=pids, torch_mib=torch_mib
        )
        assert seen is not None
        return seen

    situation = await look("ours")
    most = capacity(situation.reading, margin)
    need = situation.reading.free_mib + 2048
    hold_to(
        "cached memory of the engine counts as room",
        isinstance(decide(need, "ours", situation), Admit),
    )
    first = decide(need, "other", situation)
    hold_to("other models are freed first", isinstance(first, FreeFirst))
    torch_mib = engine.do("drop")
    monitor = GpuMonitor(card=card, margin_mib=margin)
    hold_to(
        "after the free it is admitted", isinstance(decide(need, "other", await look(None)), Admit)
    )
    refused = decide(most + 1, "ours", situation)
    hold_to("a need above the card is refused", isinstance(refused, Never))
    say("refusal", getattr(refused, "detail", None))

    foreign = Holder()
    foreign.do(f"take {situation.reading.free_mib // 2}")
    job = Candidate(job_id="1", need_mib=most - 4096, models="ours")
    choice = choose([job], await look("ours"), backfill_seconds=300)
    waits = choice.waits.get("1")
    hold_to("a foreign process makes the job wait", isinstance(waits, Wait))
    say("the words", waits.wait.detail if waits is not None else None)
    for _ in range(8):  # the queue is looked at every quarter of a second while a job waits
        await asyncio.sleep(0.25)
        await look("ours")
    foreign.end()
    gone = time.monotonic()
    while time.monotonic() - gone < 10:
        choice = choose([job], await look("ours"), backfill_seconds=300)
        if choice.job_id is not None:
            break
        await asyncio.sleep(0.25)
    seconds = time.monotonic() - gone
    say("seconds from the foreign process's end to admission", round(seconds, 2))
    hold_to("the job starts within 2 s", choice.job_id == "1" and seconds < 2)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--gpu", help="index or UUID; default: what CUDA calls device 0")
    arguments.add_argument("--json", type=Path, help="where to write the results")
    chosen = arguments.parse_args()
    say("at", datetime.now(UTC).isoformat(timespec="seconds"))
    nvml = Nvml()
    card = NvmlCard(chosen.gpu, nvml=nvml, environ=os.environ)
    os.environ["CUDA_VISIBLE_DEVICES"] = card.uuid
    readings(nvml, card)
    cost(card)
    engine = Holder()
    visible, offset = ownership(card, engine)
    asyncio.run(peaks(card, engine, visible=visible, offset=offset))
    held = engine_memory(card.read(), pids=[engine.pid], torch_mib=0, offset=offset)
    asyncio.run(sampling_cost(card, held, 10.0))
    asyncio.run(admission(card, engine, visible=visible))
    engine.end()
    say("broken promises", failures)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(results, indent=2), encoding="utf-8")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
