"""One stand-in put together, and its ASGI application."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Mapping
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

_log = logging.getLogger(__name__)


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
        self._log = log = RunLog(options.directory)
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
        for task in tasks:
            task.add_done_callback(_end_with)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._log.close()


def _end_with(task: asyncio.Task[None]) -> None:
    """A stand-in whose worker broke would look like one that hangs: end instead, and say why."""
    if not task.cancelled():
        _log.critical("the stand-in broke", exc_info=task.exception())
        os._exit(os.EX_SOFTWARE)


def status(queue: Queue) -> dict[str, Any]:
    """The body of a `status` message."""
    return {"status": {"exec_info": {"queue_remaining": queue.remaining()}}}
