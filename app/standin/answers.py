"""Answers in the exact form of the real server's HTTP library."""

from __future__ import annotations

from starlette.responses import JSONResponse, PlainTextResponse, Response


class Json(JSONResponse):
    """JSON with the content type that aiohttp gives it."""

    media_type = "application/json; charset=utf-8"


def unrouted(status: int) -> Response:
    """No such route (404), or none for this method (405)."""
    if status == 405:
        return PlainTextResponse("405: Method Not Allowed", 405)
    return Response(status_code=status, media_type="application/octet-stream")
