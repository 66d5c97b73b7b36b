"""The whole gateway on two real NVIDIA cards. By hand: `python tests/gpu_real/several_check.py`.

One gateway, one queue, two stand-ins of its own, each with real CUDA memory on its own card; other
processes take one card or both. Needs PyTorch with CUDA and two cards with 24 GiB free.
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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import httpx

from app.gpu.nvml import Nvml, list_cards
from app.gpu.selection import cuda_order, pick
from tests.chaos.processes import ROOT, Gateway, until
from tests.gpu_real.gateway_check import (
    Card,
    Findings,
    engine_pid,
    gateway,
    seconds_between,
    somebody_else,
    submit,
)

ORDER = """
import torch
for number in range(torch.cuda.device_count()):
    print("GPU-" + str(torch.cuda.get_device_properties(number).uuid))
"""


def torchs_order(**environ: str) -> list[str]:
    """The cards as a CUDA program numbers them, asked of PyTorch itself."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
    told = subprocess.run(
        [sys.executable, "-c", ORDER],
        env={**kept, **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    return told.stdout.split()


def check_numbers(seen: Findings) -> None:
    cards = list_cards(Nvml())
    theirs = torchs_order()
    ours = [card.uuid for card in cuda_order(cards, {})]
    seen.add("cards are numbered as CUDA numbers them", kept=ours == theirs, seen=f"{theirs}")
    for visible in ("1", "1,0", cards[1].uuid):
        environ = {"CUDA_VISIBLE_DEVICES": visible}
        first, picked = torchs_order(**environ)[0], pick(cards, None, environ).uuid
        seen.add(
            f"CUDA_VISIBLE_DEVICES={visible} means the same card",
            kept=first == picked,
            seen=f"CUDA {first}, gateway {picked}",
        )


def check_plan(one: Gateway, cards: list[Card], seen: Findings) -> None:
    lines = [json.loads(line) for line in one.log.read_text().splitlines() if line[:1] == "{"]
    plan = {x["engine"]: x["gpu_uuid"] for x in lines if x["event"] == "engine planned"}
    wanted = {f"engine-{number}": card.uuid for number, card in enumerate(cards)}
    seen.add("the plan is printed: one engine for each card", kept=plan == wanted, seen=f"{plan}")
    for number, card in enumerate(cards):
        told = Path(f"/proc/{engine_pid(one, number)}/environ").read_bytes().split(b"\0")
        words = f"CUDA_VISIBLE_DEVICES={card.uuid}"
        seen.add(
            f"the process of engine-{number} sees its card alone",
            kept=words.encode() in told,
            seen=words,
        )


def engines_of(one: Gateway, job_id: str) -> list[str]:
    """Where the attempts of an ended job ran."""
    one.ended(job_id, seconds=120)
    told = httpx.get(f"{one.url}/v1/jobs/{job_id}/attempts", timeout=10).json()
    return [attempt["engine"] for attempt in told["attempts"]]


def check_one_card_taken(one: Gateway, cards: list[Card], need: int, seen: Findings) -> None:
    first, _ = cards
    with somebody_else(first.free_mib - need // 2, uuid=first.uuid):
        jobs = [submit(one, f"second-{number}") for number in range(2)]
        where = [engines_of(one, job_id) for job_id in jobs]
    seen.add(
        "with the first card taken, jobs run on the second",
        kept=where == [["engine-1"], ["engine-1"]],
        seen=f"{where}",
    )


def check_both_taken(one: Gateway, cards: list[Card], need: int, seen: Findings) -> None:
    first, second = cards
    for url in one.environ["GATEWAY_COMFYUI_URLS"].split():
        body = {"unload_models": True, "free_memory": True}
        httpx.post(f"{url}/free", json=body, timeout=10).raise_for_status()
    until(lambda: second.free_mib > second.total_mib - 4096, seconds=20, what="it is given back")
    with somebody_else(first.free_mib - need // 2, uuid=first.uuid):
        with somebody_else(second.free_mib - need // 2, uuid=second.uuid):
            job_id = submit(one, "waits")
            until(
                lambda: one.job(job_id)["phase"] == "waiting_for_vram",
                seconds=30,
                what="the job waits for memory",
            )
            words = one.job(job_id)["waiting"]["detail"]
        gone_at = datetime.now(UTC).isoformat()
        where = engines_of(one, job_id)
        events = one.events(job_id)
    started = next(event["at"] for event in events if event["type"] == "job.running")
    waited = seconds_between(gone_at, started)
    said = sum("waiting_for" in str(event["data"].get("phase")) for event in events)
    seen.add("with both taken the job waits, and says so once", kept=said == 1, seen=words)
    seen.add(
        "it starts within 2 s on the card that is let go",
        kept=waited < 2 and where == ["engine-1"],
        seen=f"{waited:.2f} s, {where}",
    )


def check_both_at_once(one: Gateway, cards: list[Card], need: int, seen: Findings) -> None:
    jobs = [submit(one, f"both-{number}") for number in range(4)]
    running: list[set[str]] = []

    def look() -> bool:
        told = httpx.get(f"{one.url}/v1/system", timeout=10).json()["engines"]
        running.append({engine["name"] for engine in told if engine["running_job"]})
        return all(one.job(job_id)["status"] == "succeeded" for job_id in jobs)

    until(look, seconds=120, what="four jobs succeed")
    most = max(running, key=len)
    seen.add("both cards work at once on one queue", kept=len(most) == 2, seen=f"{sorted(most)}")
    where = [engines_of(one, job_id) for job_id in jobs]
    seen.add("each job ran once", kept=all(len(tries) == 1 for tries in where), seen=f"{where}")
    held = [card.held_by(engine_pid(one, number)) for number, card in enumerate(cards)]
    crossed = [card.held_by(engine_pid(one, 1 - number)) for number, card in enumerate(cards)]
    seen.add(
        "each engine holds memory on its own card only",
        kept=all((mib or 0) >= need for mib in held) and not any(crossed),
        seen=f"own {held} MiB, the other's {crossed}",
    )
    told = httpx.get(f"{one.url}/v1/system", timeout=10).json()["engines"]
    shown = [(engine["gpu"]["uuid"], engine["gpu"]["engine_mib"]) for engine in told]
    seen.add(
        "/v1/system shows both cards and what ComfyUI holds of each",
        kept=[uuid for uuid, _ in shown] == [card.uuid for card in cards],
        seen=f"{shown}",
    )


def check_same_card_twice(directory: Path, seen: Findings) -> None:
    settings: dict[str, Any] = {
        "GATEWAY_DATA_DIR": str(directory),
        "GATEWAY_COMFYUI_URLS": "http://127.0.0.1:9 http://127.0.0.1:10",
        "GATEWAY_GPUS": "0 0",
        "GATEWAY_PORT": "0",
    }
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "serve"],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    words = done.stderr.strip().splitlines()
    seen.add(
        "two engines on one card: the gateway does not start",
        kept=done.returncode != 0 and any("would share" in line for line in words),
        seen=words[-1] if words else "nothing",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write what was seen to this file")
    parser.add_argument("--need-mib", type=int, default=12_000)
    wanted = parser.parse_args()
    seen, began = Findings(), time.monotonic()
    cards = [Card(uuid) for uuid in torchs_order()[:2]]
    if len(cards) < 2:
        print("Two cards are needed.", flush=True)
        return 2
    names = ", ".join(f"{card.name} {card.uuid}" for card in cards)
    print(f"{names}, {datetime.now(UTC).date()}", flush=True)
    check_numbers(seen)
    need: int = wanted.need_mib
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        with gateway(directory / "a", need_mib=need, engines=2) as one:
            check_plan(one, cards, seen)
            check_one_card_taken(one, cards, need, seen)
            check_both_taken(one, cards, need, seen)
            check_both_at_once(one, cards, need, seen)
        check_same_card_twice(directory / "b", seen)
    print(f"{time.monotonic() - began:.0f} s", flush=True)
    if wanted.json:
        told = {"cards": [card.name for card in cards], "seen": seen.rows}
        wanted.json.write_text(json.dumps(told, indent=1))
    return 0 if all(row["kept"] for row in seen.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
