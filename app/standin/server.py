"""One stand-in put together, and its ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from importlib import resources
from typing import Any

from starlette.routing import BaseRoute, Route, Router, WebSocketRoute

from app.standin import files, jobs, prompts, server_info
from app.standin.control import Control
from app.standin.faults import Faults
from app.standin.front import Front
from app.standin.memory import Memory
from app.standin.misbehave import Misbehavior
from app.standin.sockets import SocketEndpoint
from app.standin.state import Options, Queue, Sockets
from app.standin.stats import RunLog
from app.standin.worker import Worker

PROBES: Mapping[str, Any] = {
    "ProbeSlow": {
        "input": {
            "required": {
                "image": ["IMAGE"],
                "steps": ["INT", {"default": 4, "min": 1, "max": 10000}],
                "delay": ["FLOAT", {"default": 0.5, "min": 0.0, "max": 3600.0}],
                "preview": ["BOOLEAN", {"default": False}],
                "salt": ["INT", {"default": 0, "min": 0, "max": 2147483647}],
            }
        },
        "output": ["IMAGE"],
        "output_node": False,
    },
    "ProbeRaise": {
        "input": {
            "required": {
                "image": ["IMAGE"],
                "message": ["STRING", {"default": "the node failed"}],
                "kind": ["STRING", {"default": "RuntimeError"}],
            }
        },
        "output": ["IMAGE"],
        "output_node": False,
    },
}
"""The two nodes that were written for the recordings."""


def object_info(
    version: str, *, probes: bool, models: Mapping[str, list[str]] | None = None
) -> dict[str, Any]:
    """What `/object_info` answers.

    Args:
        version: Which recording to start from.
        probes: Whether the recording's probe nodes are there.
        models: `NodeClass.input` to file names added to that input's choices.

    Raises:
        ValueError: No such input, or it is no combo.
    """
    name = "object_info.json" if version != "0.10.0" else "object_info.v0.10.0.json"
    text = resources.files("app.standin").joinpath("data", name).read_text()
    info: dict[str, Any] = json.loads(text)
    if probes:
        info.update(json.loads(json.dumps(PROBES)))
    for place, names in (models or {}).items():
        listed = _combo(info, place)
        listed.extend(name for name in names if name not in listed)
    return info


def _combo(info: Mapping[str, Any], place: str) -> list[str]:
    kind, _, name = place.partition(".")
    described = info.get(kind, {}).get("input", {})
    spec = {**described.get("required", {}), **described.get("optional", {})}.get(name)
    if spec is None:
        raise ValueError(f"no input '{place}'")
    listed = spec[0] if isinstance(spec[0], list) else spec[1].get("options")
    if not isinstance(listed, list):
        raise ValueError(f"'{place}' is no list of choices")  # noqa: TRY004 - a value of the user's
    return listed


class Standin:
    """A whole ComfyUI.

    Attributes:
        misbehavior: What it is told to do wrong.
        app: The ASGI application.
    """

    def __init__(self, options: Options, info: Mapping[str, Any]) -> None:
        for folder in ("input", "output", "temp"):
            (options.directory / folder).mkdir(parents=True, exist_ok=True)
        self.misbehavior = Misbehavior()
        sockets = Sockets()
        self._sockets = sockets
        queue = Queue(changed=lambda: sockets.send("status", status(queue)))
        log = RunLog(options.directory)
        memory = Memory(total_mib=options.vram_total_mib, real=options.cuda_allocate)
        endpoint = SocketEndpoint(options=options, sockets=sockets, queue=queue)
        faults = Faults(
            misbehavior=self.misbehavior,
            memory=memory,
            need_mib=options.need_mib,
            queue=queue,
            sockets=sockets,
            drop=endpoint.drop_all,
        )
        self._worker = Worker(
            options=options,
            queue=queue,
            sockets=sockets,
            object_info=info,
            faults=faults,
            log=log,
        )
        endpoint.worker = self._worker
        control = Control(misbehavior=self.misbehavior, log=log, sockets=sockets, queue=queue)
        rooms = [
            *prompts.Prompts(options, queue, info, self.misbehavior, log).routes(),
            *jobs.Jobs(queue, modern=options.modern).routes(),
            *files.Files(options).routes(),
            *server_info.ServerInfo(options, info, memory).routes(),
        ]
        routes: list[BaseRoute] = [*control.routes(), *rooms]
        routes += [
            Route(f"/api{route.path}", route.endpoint, methods=list(route.methods or ()))
            for route in rooms
            if not route.path.startswith("/api")
        ]
        routes += [WebSocketRoute(path, endpoint.serve) for path in ("/ws", "/api/ws")]
        inner = Router(routes=routes, lifespan=self._lifespan, redirect_slashes=False)
        self.app = Front(inner, options=options, misbehavior=self.misbehavior)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: object) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(self._sockets.publish()),
            asyncio.create_task(self._worker.work()),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def status(queue: Queue) -> dict[str, Any]:
    """The body of a `status` message."""
    return {"status": {"exec_info": {"queue_remaining": queue.remaining()}}}
