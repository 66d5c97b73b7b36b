"""A stand-in served inside the test's own loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from app.standin.recorded import object_info
from app.standin.serve import serving
from app.standin.server import Standin
from app.standin.state import Options
from tests.mediakit import image_bytes, make_video

PATIENCE = 90.0
GRAPHS = Path(__file__).resolve().parents[2] / "workflows"


@dataclass
class Engine:
    """A running stand-in and a client of it."""

    url: str
    directory: Path
    standin: Standin
    http: httpx.AsyncClient
    said: list[dict[str, Any]] = field(default_factory=list)

    async def submit(self, graph: dict[str, Any], **more: Any) -> str:
        """Post a graph that must be accepted; its prompt id."""
        body = {"prompt": graph, "prompt_id": str(uuid.uuid4()), **more}
        answer = await self.http.post("/prompt", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["prompt_id"])

    async def ended(self, prompt_id: str) -> dict[str, Any]:
        """Its history entry, once there."""
        async with asyncio.timeout(PATIENCE):
            while not (entry := (await self.http.get(f"/history/{prompt_id}")).json()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return dict(entry[prompt_id])

    async def run(self, graph: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Post a graph and wait for its history entry."""
        return await self.ended(await self.submit(graph, **more))

    async def remaining(self) -> int:
        """Prompts not finished."""
        exec_info = (await self.http.get("/prompt")).json()["exec_info"]
        return int(exec_info["queue_remaining"])

    async def misbehave(self, mode: str, **how: Any) -> None:
        """Order a fault."""
        answer = await self.http.post("/standin/misbehave", json={"mode": mode, **how})
        assert answer.status_code == 200, answer.text

    async def stats(self) -> dict[str, Any]:
        """What it counted, by prompt."""
        return dict((await self.http.get("/standin/stats")).json()["prompts"])

    def file(self, entry: dict[str, Any], node_id: str, kind: str) -> Path:
        """The video of one output node."""
        named = entry["outputs"][node_id][kind][0]
        return self.directory.joinpath(named["type"], named["subfolder"], named["filename"])


@contextlib.asynccontextmanager
async def engine_in(
    directory: Path, *, probes: bool = True, version: str = "0.28.1", **options: Any
) -> AsyncIterator[Engine]:
    """Serve a stand-in for as long as the block lasts."""
    options = {"step_seconds": 0.01, "work": False, **options}
    chosen = Options(version=version, directory=directory, **options)
    standin = Standin(chosen, object_info(version, probes=probes))
    (directory / "input/ref.png").write_bytes(image_bytes(width=60, height=100))
    make_video(directory / "input/dance.mp4", width=96, height=160, frames=48, fps=24, audio=True)
    make_video(directory / "input/mute.mp4", width=96, height=160, frames=24, fps=24)
    async with (
        serving(standin) as url,
        httpx.AsyncClient(base_url=url, timeout=PATIENCE) as http,
    ):
        yield Engine(url, directory, standin, http)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    """One that makes no frames."""
    async with engine_in(tmp_path) as running:
        yield running


class Listener:
    """A websocket client that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.closed = asyncio.Event()
        self._news = asyncio.Event()

    @property
    def kinds(self) -> list[str]:
        """The kinds of messages, in order."""
        return [message["type"] for message in self.heard]

    def hear(self, message: dict[str, Any]) -> None:
        """Keep a message."""
        self.heard.append(message)
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for messages until something holds."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def over(self, prompt_id: str) -> None:
        """Wait for the last message about a prompt."""
        data = {"node": None, "prompt_id": prompt_id}
        await self.until(lambda: {"type": "executing", "data": data} in self.heard)


@contextlib.asynccontextmanager
async def listening(engine: Engine, client_id: str) -> AsyncIterator[Listener]:
    """A websocket of a client, its JSON messages kept."""
    listener = Listener()
    url = f"{engine.url.replace('http', 'ws', 1)}/ws?clientId={client_id}"
    async with connect(url, compression=None) as connection:

        async def read() -> None:
            try:
                async for frame in connection:
                    if isinstance(frame, str):
                        listener.hear(json.loads(frame))
            finally:
                listener.closed.set()

        reader = asyncio.create_task(read())
        await listener.until(lambda: bool(listener.heard))
        try:
            yield listener
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionClosed):
                await reader


def smoke(frames: int = 17, prefix: str = "smoke") -> dict[str, Any]:
    """The smoke workflow's graph on the test's files."""
    graph: dict[str, Any] = json.loads((GRAPHS / "smoke/graph.json").read_text())
    graph["1"]["inputs"]["image"] = "ref.png"
    graph["2"]["inputs"]["file"] = "dance.mp4"
    graph["4"]["inputs"]["length"] = frames
    graph["9"]["inputs"]["filename_prefix"] = prefix
    return graph


def slow(steps: int = 4, delay: float = 0.02, salt: int = 0) -> dict[str, Any]:
    """A graph whose sampler is the probe node."""
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 64, "height": 64, "batch_size": 5, "color": 255},
        },
        "2": {
            "class_type": "ProbeSlow",
            "inputs": {
                "image": ["1", 0],
                "steps": steps,
                "delay": delay,
                "preview": False,
                "salt": salt,
            },
        },
        "3": {"class_type": "CreateVideo", "inputs": {"images": ["2", 0], "fps": 16.0}},
        "4": {
            "class_type": "SaveVideo",
            "inputs": {
                "video": ["3", 0],
                "filename_prefix": f"slow{salt}",
                "format": "mp4",
                "codec": "h264",
            },
        },
    }


def dance(
    width: int = 96, height: int = 160, frames: int = 9, video: str = "dance.mp4", steps: int = 3
) -> dict[str, Any]:
    """The SteadyDancer workflow's graph on the test's files."""
    graph: dict[str, Any] = json.loads((GRAPHS / "steadydancer/graph.json").read_text())
    by_class = {node["class_type"]: node["inputs"] for node in graph.values()}
    by_class["LoadImage"]["image"] = "ref.png"
    loader = by_class["VHS_LoadVideo"]
    loader |= {"video": video, "custom_width": width, "custom_height": height}
    loader |= {"frame_load_cap": frames, "force_rate": 16}
    by_class["WanVideoSampler"]["steps"] = steps
    return graph
