"""The routes that only a stand-in has: told what to do wrong, asked what it did."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.standin.answers import Json
from app.standin.misbehave import Misbehavior
from app.standin.state import Queue, Sockets
from app.standin.stats import RunLog


class Control:
    """`/standin/…`."""

    def __init__(
        self, *, misbehavior: Misbehavior, log: RunLog, sockets: Sockets, queue: Queue
    ) -> None:
        self._misbehavior = misbehavior
        self._log = log
        self._sockets = sockets
        self._queue = queue

    def routes(self) -> list[Route]:
        """Its routes."""
        return [
            Route("/standin/misbehave", self._misbehave, methods=["POST"]),
            Route("/standin/behave", self._behave, methods=["POST"]),
            Route("/standin/stats", self._stats, methods=["GET"]),
        ]

    async def _misbehave(self, request: Request) -> Response:
        described = await request.json()
        if described.get("mode") == "forget" and not {"node", "at_step"} & set(described):
            self._queue.forget()
            return Json({})
        try:
            self._misbehavior.add(described)
        except ValueError as error:
            return Json({"error": str(error)}, 400)
        return Json({})

    async def _behave(self, _request: Request) -> Response:
        self._misbehavior.behave()
        self._sockets.silenced = []
        return Json({})

    async def _stats(self, _request: Request) -> Response:
        return Json(self._log.read())
