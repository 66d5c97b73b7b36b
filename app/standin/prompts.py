"""`/prompt`, `/queue`, `/history`, `/interrupt` and `/free`."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.graphcheck import Verdict, check_graph
from app.standin.answers import Json
from app.standin.front import hang_up
from app.standin.inputs import present
from app.standin.misbehave import ACCEPTED, Misbehavior
from app.standin.state import Item, Options, Queue, milliseconds
from app.standin.stats import RunLog

NO_PROMPT = {
    "type": "no_prompt",
    "message": "No prompt provided",
    "details": "No prompt provided",
    "extra_info": {},
}
INVALID_ID = {
    "type": "invalid_prompt_id",
    "message": "prompt_id must be a valid UUID",
    "details": "prompt_id must be a UUID string in canonical lowercase hyphenated form; "
    "omit it to let the server generate one",
    "extra_info": {},
}
TOLD_TO = {
    "type": "prompt_outputs_failed_validation",
    "message": "Prompt outputs failed validation",
    "details": "the stand-in was told to refuse",
    "extra_info": {},
}


class Prompts:
    """What a client asks of the queue."""

    def __init__(
        self,
        options: Options,
        queue: Queue,
        object_info: Mapping[str, Any],
        misbehavior: Misbehavior,
        log: RunLog,
    ) -> None:
        self._options = options
        self._queue = queue
        self._info = object_info
        self._misbehavior = misbehavior
        self._log = log

    def routes(self) -> list[Route]:
        """Its routes."""
        return [
            Route("/prompt", self._post, methods=["POST"]),
            Route("/prompt", self._remaining, methods=["GET"]),
            Route("/queue", self._get_queue, methods=["GET"]),
            Route("/queue", self._post_queue, methods=["POST"]),
            Route("/history", self._get_history, methods=["GET"]),
            Route("/history", self._post_history, methods=["POST"]),
            Route("/history/{prompt_id}", self._get_one, methods=["GET"]),
            Route("/interrupt", self._interrupt, methods=["POST"]),
            Route("/free", self._free, methods=["POST"]),
        ]

    async def _post(self, request: Request) -> Response:
        body = await request.json()
        number = self._number(body)
        if "prompt" not in body:
            return _refuse(NO_PROMPT)
        prompt_id = body.get("prompt_id")
        if prompt_id is None:
            prompt_id = str(uuid.uuid4())
        elif self._options.modern and not _canonical(prompt_id):
            return _refuse(INVALID_ID)
        verdict = self._check(body["prompt"])
        if verdict.error is not None:
            return _refuse(verdict.error, verdict.node_errors)
        if self._misbehavior.take("reject"):
            return _refuse(TOLD_TO)
        node_errors = dict(verdict.node_errors)
        if self._misbehavior.take("node_errors_200"):
            node_errors = _invented(verdict)
        extra = dict(body.get("extra_data") or {})
        if "client_id" in body:
            extra["client_id"] = body["client_id"]
        extra["create_time"] = milliseconds()
        self._log.note("accepted", prompt_id)
        self._queue.put(Item(number, prompt_id, verdict.graph, extra, list(verdict.outputs)))
        if self._misbehavior.take_at("die", ACCEPTED):
            os._exit(1)
        if self._misbehavior.take("lose_answer"):
            hang_up(request.scope)
        return Json({"prompt_id": prompt_id, "number": number, "node_errors": node_errors})

    def _check(self, graph: Any) -> Verdict:  # noqa: ANN401 - whatever was sent
        return check_graph(
            graph,
            self._info,
            uploaded=partial(present, self._options.directory),
            modern=self._options.modern,
        )

    def _number(self, body: Any) -> float:  # noqa: ANN401 - a JSON list gets so far, too
        if "number" in body:
            return float(body["number"])
        number = self._queue.number
        self._queue.number += 1
        front = isinstance(body, dict) and body.get("front")
        return -number if front else number

    async def _remaining(self, _request: Request) -> Response:
        return Json({"exec_info": {"queue_remaining": self._queue.remaining()}})

    async def _get_queue(self, _request: Request) -> Response:
        running = self._queue.running
        return Json(
            {
                "queue_running": [] if running is None else [running.shown()],
                "queue_pending": [item.shown() for item in self._queue.pending],
            }
        )

    async def _post_queue(self, request: Request) -> Response:
        body = await request.json()
        if body.get("clear"):
            self._queue.clear()
        for prompt_id in body.get("delete", []):
            self._queue.delete(prompt_id)
        return Response()

    async def _get_history(self, request: Request) -> Response:
        entries = list(self._queue.history.items())
        most = request.query_params.get("max_items")
        offset = int(request.query_params.get("offset", -1))
        if most is not None:
            start = offset if offset >= 0 else max(0, len(entries) - int(most))
            entries = entries[start : start + int(most)]
        elif offset >= 0:
            entries = entries[offset:]
        return Json(dict(entries))

    async def _get_one(self, request: Request) -> Response:
        prompt_id = request.path_params["prompt_id"]
        entry = self._queue.history.get(prompt_id)
        return Json({} if entry is None else {prompt_id: entry})

    async def _post_history(self, request: Request) -> Response:
        body = await request.json()
        if body.get("clear"):
            self._queue.history.clear()
        for prompt_id in body.get("delete", []):
            self._queue.history.pop(prompt_id, None)
        return Response()

    async def _interrupt(self, request: Request) -> Response:
        raw = await request.body()
        body = await request.json() if raw else {}
        running = self._queue.running
        wanted = body.get("prompt_id")
        if not wanted or (running is not None and running.prompt_id == wanted):
            self._queue.interrupted = True
        return Response()

    async def _free(self, request: Request) -> Response:
        body = await request.json()
        for name in ("unload_models", "free_memory"):
            if body.get(name):
                self._queue.free[name] = True
        self._queue.arrived.set()
        return Response()


def _refuse(error: Mapping[str, Any], node_errors: Mapping[str, Any] | None = None) -> Response:
    return Json({"error": error, "node_errors": node_errors or {}}, 400)


def _canonical(prompt_id: Any) -> bool:  # noqa: ANN401 - whatever was sent
    try:
        return isinstance(prompt_id, str) and str(uuid.UUID(prompt_id)) == prompt_id
    except ValueError:
        return False


def _invented(verdict: Verdict) -> dict[str, Any]:
    node_id = next(iter(verdict.graph))
    fault = {
        "type": "value_not_in_list",
        "message": "Value not in list",
        "details": "the stand-in was told to",
        "extra_info": {},
    }
    entry = {
        "errors": [fault],
        "dependent_outputs": list(verdict.outputs),
        "class_type": verdict.graph[node_id]["class_type"],
    }
    return {node_id: entry}
