"""The HTTP API of a RunPod Serverless endpoint, as RunPod documents it, and nobody else knows it.

https://docs.runpod.io/serverless/endpoints/operation-reference. Of a call that failed it is told
whether the endpoint may have heard.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import Misconfigured

RUN_BYTES = 10_000_000
"""Largest body of `/run`: RunPod says 10 MB."""

LONGEST_SECONDS = 7 * 86_400
"""Longest `executionTimeout` and `ttl`."""

_ANSWER_BYTES = 64 * 1024 * 1024
_READ_SECONDS = 60.0
_CONNECT_SECONDS = 10.0


class EndpointError(Exception):
    """The endpoint cannot be asked now."""


class NotReached(EndpointError):
    """It heard nothing: no connection came about."""


class AnswerLost(EndpointError):
    """It may have heard; what it answered is not known."""


class Refused(EndpointError):
    """It answered that it will not.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Unknown(EndpointError):
    """It knows no such job: never had, or its result is deleted (30 minutes after the end)."""


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Remote(_Answer):
    """A job at the endpoint.

    Attributes:
        id: The endpoint's id.
        status: IN_QUEUE, IN_PROGRESS, RUNNING, COMPLETED, FAILED, CANCELLED or TIMED_OUT.
        output: What the handler answered, or told last while the job runs.
        error: What it failed of.
        execution_ms: How long a worker had it.
    """

    id: str
    status: str
    output: Any = None
    error: Any = None
    execution_ms: float | None = Field(default=None, validation_alias="executionTime")


class Workers(_Answer):
    """How many workers do what."""

    idle: int = 0
    running: int = 0
    initializing: int = 0
    throttled: int = 0


class Jobs(_Answer):
    """How many jobs the endpoint has, everybody's."""

    waiting: int = Field(default=0, validation_alias="inQueue")
    running: int = Field(default=0, validation_alias="inProgress")


class Health(_Answer):
    """The endpoint as a whole."""

    jobs: Jobs = Jobs()
    workers: Workers = Workers()


Model = TypeVar("Model", bound=_Answer)


class Endpoint:
    """One endpoint. Close it with `aclose`."""

    def __init__(self, url: str, key: str) -> None:
        """Know where it is; nothing is asked yet.

        Args:
            url: Such as `https://api.runpod.ai/v2/ENDPOINT_ID`.
            key: RunPod API key, sent with every call.

        Raises:
            Misconfigured: The key would be sent in the clear over a network.
        """
        parts = urlsplit(url)
        if parts.scheme != "https" and not _is_loopback(parts.hostname or ""):
            raise Misconfigured("GATEWAY_SERVERLESS_URL must begin with https://.")
        self.url = url.rstrip("/")
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}", "Accept": "application/json"},
            timeout=httpx.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS),
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def run(self, body: bytes) -> Remote:
        """Hand a job over; see `run_body`.

        Raises:
            EndpointError: Every kind but `Unknown`.
        """
        return await self._call("POST", "/run", Remote, content=body)

    async def status(self, remote_id: str) -> Remote:
        """Ask what became of a job.

        Raises:
            EndpointError: Every kind.
        """
        return await self._call("GET", f"/status/{remote_id}", Remote)

    async def cancel(self, remote_id: str) -> Remote:
        """Have a job stopped, wherever it is.

        Raises:
            EndpointError: Every kind.
        """
        return await self._call("POST", f"/cancel/{remote_id}", Remote)

    async def health(self) -> Health:
        """Ask for workers and queue.

        Raises:
            EndpointError: Every kind.
        """
        return await self._call("GET", "/health", Health)

    async def _call(
        self, method: str, path: str, model: type[Model], *, content: bytes | None = None
    ) -> Model:
        headers = {"Content-Type": "application/json"} if content is not None else None
        try:
            async with self._http.stream(method, path, content=content, headers=headers) as answer:
                data = bytearray()
                async for piece in answer.aiter_bytes():
                    data += piece
                    if len(data) > _ANSWER_BYTES:
                        raise AnswerLost(f"The endpoint answers more than {_ANSWER_BYTES:,} bytes.")
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NotReached("The endpoint cannot be connected to.") from error
        except httpx.HTTPError as error:
            raise AnswerLost(f"The endpoint's answer was lost ({type(error).__name__}).") from error
        _check(answer.status_code)
        try:
            return model.model_validate_json(bytes(data))
        except ValidationError as error:
            raise AnswerLost("The endpoint's answer has no known form.") from error


def run_body(given: Mapping[str, Any], *, run_seconds: float, ttl_seconds: float) -> bytes:
    """The body of `/run`.

    Args:
        given: What the handler gets.
        run_seconds: How long a worker may have the job.
        ttl_seconds: How long the endpoint may have it in all; then it forgets it.
    """
    policy = {
        "executionTimeout": round(min(run_seconds, LONGEST_SECONDS) * 1000),
        "ttl": round(min(ttl_seconds, LONGEST_SECONDS) * 1000),
    }
    body = {"input": given, "policy": policy}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _check(status: int) -> None:
    if status == 404:
        raise Unknown("The endpoint knows no such job, or there is no such endpoint.")
    if status in {401, 403}:
        raise Refused(status, f"The endpoint refuses GATEWAY_SERVERLESS_KEY ({status}).")
    if 400 <= status < 500:
        raise Refused(status, f"The endpoint refuses the call ({status}).")
    if status != 200:
        raise AnswerLost(f"The endpoint answered {status}.")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
