"""Every conversation recorded with a real ComfyUI, held again with the stand-in.

What is not compared: `normal.py` (ids, times, counters of a longer life, lines of source) and
`compare.py` (figures of the machine, frontend files, races). Every recorded scenario is played;
none is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.player import Player
from tests.contract.recording import FOLDERS, Recording, load, names
from tests.contract.server import StandInProcess, make_samples, prepare_files

OWN_SERVER = {
    "11_server_killed_and_restarted": (),
    "12_upload_too_large": ("--max-upload-size", "1"),
    "15_server_sigterm_mid_run": (),
}
SCENARIOS = [(version, name) for version in FOLDERS for name in names(version)]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_samples(tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, StandInProcess]]:
    """One server for each version; scenarios that end it have their own."""
    running: dict[str, StandInProcess] = {}
    for number in FOLDERS:
        running[number] = StandInProcess(
            tmp_path_factory.mktemp(f"v{number}"), "--version", number, "--probe-nodes"
        )
        running[number].start()
    yield running
    for server in running.values():
        server.terminate()


@pytest.mark.parametrize(("number", "scenario"), SCENARIOS)
async def test_the_stand_in_answers_as_the_real_server_did(
    number: str,
    scenario: str,
    servers: dict[str, StandInProcess],
    samples: Path,
    tmp_path: Path,
) -> None:
    recording = load(number, scenario)
    options = OWN_SERVER.get(scenario)
    if options is None:
        await _play(recording, servers[number], samples)
        return
    server = StandInProcess(tmp_path, "--version", number, "--probe-nodes", *options)
    prepare_files(tmp_path, recording, samples)
    server.start()
    try:
        await Player(recording, server).play()
    finally:
        if server.running:
            server.kill()


async def _play(recording: Recording, server: StandInProcess, samples: Path) -> None:
    player = Player(recording, server)
    async with httpx.AsyncClient(base_url=server.url, timeout=90) as http:
        await _clear(http)
        prepare_files(server.directory, recording, samples)
        await _warm(http, recording)
        if recording.name.startswith("09_"):
            await _past(http, recording, player)
        try:
            await player.play()
        finally:
            await _clear(http)


async def _clear(http: httpx.AsyncClient) -> None:
    """Bring a server back to what it was when it started."""
    await http.post("/standin/behave")
    await http.post("/queue", json={"clear": True})
    await http.post("/interrupt", json={})
    await _idle(http)
    await http.post("/history", json={"clear": True})
    await http.post("/free", json={"unload_models": True, "free_memory": True})


async def _idle(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(90):
        while (await http.get("/prompt")).json()["exec_info"]["queue_remaining"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def _run(http: httpx.AsyncClient, graph: dict[str, Any]) -> dict[str, Any]:
    answer = await http.post("/prompt", json={"prompt": graph})
    assert answer.status_code == 200, answer.text
    await _idle(http)
    return dict(answer.json())


async def _warm(http: httpx.AsyncClient, recording: Recording) -> None:
    """Fill the cache with what an earlier scenario had left in it."""
    warm = recording.warm_nodes()
    if warm is None:
        return
    graph, cached = warm
    part = {node_id: graph[node_id] for node_id in cached}
    for node_id in cached:
        part[f"show{node_id}"] = {
            "class_type": "PreviewImage",
            "inputs": {"images": [node_id, 0]},
        }
    await _run(http, part)
    await http.post("/history", json={"clear": True})


async def _past(http: httpx.AsyncClient, recording: Recording, player: Player) -> None:
    """Jobs that a server has behind it: three that failed and two that succeeded."""
    latest = next(e for e in recording.events if e.get("path") == "/history?max_items=1")
    recorded_id, entry = next(iter(latest["response"].items()))
    graph = entry["prompt"][2]
    frames = {"class_type": "EmptyImage", "inputs": graph["1"]["inputs"]}
    shown = {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}
    for message in ("first", "second", "third"):
        raising = {"image": ["1", 0], "message": message, "kind": "RuntimeError"}
        node = {"class_type": "ProbeRaise", "inputs": raising}
        await _run(http, {"1": frames, "2": node, "3": shown})
    slow = {"class_type": "ProbeSlow", "inputs": {**graph["2"]["inputs"], "salt": 1}}
    await _run(http, {**graph, "2": slow})
    last = await _run(http, graph)
    player.names.ids[recorded_id] = last["prompt_id"]
    player.names.recorded_base = entry["prompt"][0]
    player.names.base = last["number"]
