"""`/api/jobs`: the same queue and history, shown as jobs."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from app.standin.answers import Json
from app.standin.state import Item, Queue

STATUSES = ("pending", "in_progress", "completed", "failed", "cancelled")
PREVIEWED = ("images", "gifs", "video", "audio")


class Jobs:
    """The job routes; cancel only where the version has it."""

    def __init__(self, queue: Queue, *, modern: bool) -> None:
        self._queue = queue
        self._modern = modern

    def routes(self) -> list[Route]:
        """Its routes."""
        return [
            Route("/api/jobs", self._list, methods=["GET"]),
            Route("/api/jobs/cancel", self._cancel_many, methods=["POST"]),
            Route("/api/jobs/{job_id}", self._get, methods=["GET"]),
            Route("/api/jobs/{job_id}/cancel", self._cancel, methods=["POST"]),
        ]

    async def _list(self, request: Request) -> Response:
        query = request.query_params
        wanted = [part for part in query.get("status", "").split(",") if part]
        wrong = [part for part in wanted if part not in STATUSES]
        if wrong:
            text = f"Invalid status value(s): {', '.join(wrong)}."
            return _bad(f"{text} Valid values: {', '.join(STATUSES)}")
        limit = None
        if "limit" in query:
            if not query["limit"].isdecimal() or int(query["limit"]) < 1:
                return _bad("limit must be a positive integer")
            limit = int(query["limit"])
        offset = max(0, int(query.get("offset", 0)))
        found = [job for job in self._all() if not wanted or job["status"] in wanted]
        by_time = query.get("sort_by") == "execution_duration"
        found.sort(
            key=_duration if by_time else lambda job: job["create_time"],
            reverse=query.get("sort_order") != "asc",
        )
        shown = found[offset:] if limit is None else found[offset : offset + limit]
        page = {
            "offset": offset,
            "limit": limit,
            "total": len(found),
            "has_more": limit is not None and offset + limit < len(found),
        }
        return Json({"jobs": shown, "pagination": page})

    def _all(self) -> list[dict[str, Any]]:
        running = self._queue.running
        unfinished = [_waiting(item, "pending") for item in self._queue.pending]
        if running is not None:
            unfinished.append(_waiting(running, "in_progress"))
        return unfinished + [_finished(entry) for entry in self._queue.history.values()]

    async def _get(self, request: Request) -> Response:
        job_id = request.path_params["job_id"]
        running = self._queue.running
        if running is not None and running.prompt_id == job_id:
            return Json(_waiting(running, "in_progress"))
        for item in self._queue.pending:
            if item.prompt_id == job_id:
                return Json(_waiting(item, "pending"))
        entry = self._queue.history.get(job_id)
        if entry is None:
            return Json({"error": "Job not found"}, 404)
        whole = {
            **_finished(entry),
            "outputs": entry["outputs"],
            "execution_status": entry["status"],
            **_workflow(entry["prompt"]),
        }
        return Json(whole)

    async def _cancel(self, request: Request) -> Response:
        if not self._modern:
            return PlainTextResponse("405: Method Not Allowed", 405)
        return Json({"cancelled": self._stop(request.path_params["job_id"])})

    async def _cancel_many(self, request: Request) -> Response:
        if not self._modern:
            return PlainTextResponse("405: Method Not Allowed", 405)
        ids = (await request.json()).get("job_ids", [])
        wrong = [job_id for job_id in ids if not _is_uuid(job_id)]
        if wrong:
            body = {"error": "job_ids contains invalid id(s)", "invalid_ids": wrong}
            return Json(body, 400)
        stopped = [self._stop(job_id) for job_id in ids]
        return Json({"cancelled": any(stopped)})

    def _stop(self, job_id: str) -> bool:
        running = self._queue.running
        if running is not None and running.prompt_id == job_id:
            self._queue.interrupted = True
            return True
        return self._queue.delete(job_id)


def _bad(text: str) -> Response:
    return Json({"error": text}, 400)


def _is_uuid(text: Any) -> bool:  # noqa: ANN401 - whatever was sent
    try:
        uuid.UUID(text)
    except (ValueError, TypeError, AttributeError):
        return False
    return True


def _waiting(item: Item, status: str) -> dict[str, Any]:
    return {
        "id": item.prompt_id,
        "status": status,
        "priority": item.number,
        "create_time": item.extra["create_time"],
        "outputs_count": 0,
    }


def _workflow(shown: list[Any]) -> dict[str, Any]:
    return {"workflow": {"prompt": shown[2], "extra_data": shown[3]}}


def _duration(job: Mapping[str, Any]) -> int:
    return int(job.get("execution_end_time", 0)) - int(job.get("execution_start_time", 0))


def _finished(entry: Mapping[str, Any]) -> dict[str, Any]:
    number, prompt_id, _, extra, _ = entry["prompt"]
    messages = entry["status"]["messages"]
    ending, last = messages[-1]
    job: dict[str, Any] = {
        "id": prompt_id,
        "status": {
            "execution_success": "completed",
            "execution_interrupted": "cancelled",
        }.get(ending, "failed"),
        "priority": number,
        "create_time": extra["create_time"],
        "execution_start_time": messages[0][1]["timestamp"],
        "execution_end_time": last["timestamp"],
    }
    if ending == "execution_error":
        job["execution_error"] = last
    files = _files(entry["outputs"])
    job["outputs_count"] = len(files)
    if files:
        job["preview_output"] = files[0]
    return job


def _files(outputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            **{key: item[key] for key in ("filename", "subfolder", "type")},
            "nodeId": node_id,
            "mediaType": kind,
        }
        for node_id, output in outputs.items()
        for kind, items in output.items()
        if kind in PREVIEWED
        for item in items
    ]
