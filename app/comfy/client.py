"""ComfyUI's HTTP API, of v0.10.0 and v0.28.1 alike. No wait for its next byte is unbounded."""

from __future__ import annotations

import functools
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
from pydantic import ValidationError

from app.comfy.messages import (
    Features,
    HistoryEntry,
    OutputFile,
    SystemStats,
    parse_history,
)
from app.comfy.stream import EventStream, open_stream
from app.telemetry import trace_headers

_PIECE_BYTES = 256 * 1024

_MISSHAPEN = (AttributeError, LookupError, TypeError, ValueError)
"""What reading JSON raises that has not the form that was expected."""


class EngineError(Exception):
    """ComfyUI did not do what it was asked."""


class EngineUnreachable(EngineError):
    """Nobody answered: the call was certainly not received."""


class AnswerLost(EngineError):
    """The call was sent and no answer came: it may have been received."""


class EngineFaulted(EngineError):
    """ComfyUI answered with an error of its own, or with what nobody understands."""


class UploadTooLarge(EngineError):
    """The file is larger than ComfyUI's `--max-upload-size`."""


@dataclass(frozen=True, slots=True)
class NodeError:
    """One input that ComfyUI refuses."""

    node_id: str
    node_type: str
    kind: str
    input: str | None
    message: str
    details: str


class GraphRefused(EngineError):
    """ComfyUI does not run the graph, or only a part of it.

    Attributes:
        kind: ComfyUI's error type; an unknown node is `invalid_prompt` on v0.10.0 and
            `missing_node_type` on v0.28.1.
        node_errors: The inputs at fault.
    """

    def __init__(self, kind: str, message: str, node_errors: tuple[NodeError, ...] = ()) -> None:
        first = node_errors[0] if node_errors else None
        words = (
            f" {first.node_type} ({first.node_id}): {first.message} {first.details}"
            if first
            else ""
        )
        super().__init__(f"{message}{words}")
        self.kind = kind
        self.node_errors = node_errors


@dataclass(frozen=True, slots=True)
class QueueState:
    """Prompt ids in ComfyUI's queue, those pending in the order in which they will run."""

    running: tuple[str, ...]
    pending: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Running:
    """The prompt is being executed."""


@dataclass(frozen=True, slots=True)
class Pending:
    """The prompt waits in ComfyUI's queue."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The prompt is in ComfyUI's history."""

    entry: HistoryEntry


@dataclass(frozen=True, slots=True)
class Absent:
    """ComfyUI does not know the prompt."""


Located = Running | Pending | Finished | Absent


@functools.cache
def _authorities() -> ssl.SSLContext:
    """Whom TLS trusts; read once for all engines, since it takes 30 ms of CPU."""
    return httpx.create_ssl_context(trust_env=False)


async def _in_trace(request: httpx.Request) -> None:
    request.headers.update(trace_headers())


class ComfyClient:
    """One ComfyUI server."""

    def __init__(self, base_url: str, *, timeout_seconds: float = 10.0) -> None:
        self.base_url = base_url.rstrip("/")
        self._http = httpx.AsyncClient(
            base_url=self.base_url,
            timeout=httpx.Timeout(timeout_seconds, connect=min(timeout_seconds, 3.0)),
            limits=httpx.Limits(max_connections=32, max_keepalive_connections=8),
            trust_env=False,
            verify=_authorities(),
            event_hooks={"request": [_in_trace]},
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    # --- what it is ----------------------------------------------------------------------------

    async def system_stats(self) -> SystemStats:
        """Version and devices.

        Raises:
            EngineError: It does not answer.
        """
        answer = await self._json("GET", "/system_stats")
        with _translated():
            return SystemStats.model_validate(answer)

    async def features(self) -> Features:
        """Its limits.

        Raises:
            EngineError: It does not answer.
        """
        answer = await self._json("GET", "/features")
        with _translated():
            return Features.model_validate(answer)

    async def object_info(self, node: str | None = None) -> dict[str, Any]:
        """Every node's inputs, or one node's; `{}` for an unknown one.

        Raises:
            EngineError: It does not answer.
        """
        path = "/object_info" if node is None else f"/object_info/{node}"
        answer = await self._json("GET", path)
        if not isinstance(answer, dict):
            raise EngineFaulted("ComfyUI's node list is no object.")
        return answer

    # --- media ---------------------------------------------------------------------------------

    async def upload(
        self, name: str, pieces: AsyncIterable[bytes], *, size_bytes: int, subfolder: str = ""
    ) -> str:
        """Put a file into the input folder, in bounded memory.

        Args:
            name: File name; printable ASCII without quotes and slashes.
            pieces: The bytes.
            size_bytes: How many there are.
            subfolder: Folder below the input folder.

        Returns:
            The name that a graph must use.

        Raises:
            UploadTooLarge: It is over ComfyUI's limit.
            EngineError: It was not taken.
        """
        if not name.isascii() or not name.isprintable() or any(mark in name for mark in '"\\/'):
            raise ValueError(f"not a safe file name: {name!r}")
        boundary = uuid4().hex
        fields = {"type": "input", "overwrite": "true", "subfolder": subfolder}
        head = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
            for key, value in fields.items()
        )
        head += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        tail = f"\r\n--{boundary}--\r\n"

        async def body() -> AsyncGenerator[bytes]:
            yield head.encode()
            async for piece in pieces:
                yield piece
            yield tail.encode()

        answer = await self._send(
            "POST",
            "/upload/image",
            content=body(),
            headers={
                "Content-Type": f"multipart/form-data; boundary={boundary}",
                "Content-Length": str(len(head.encode()) + size_bytes + len(tail)),
            },
        )
        if answer.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            raise UploadTooLarge(
                f"ComfyUI takes no file of {size_bytes:,} bytes; raise its --max-upload-size."
            )
        stored = _object(_checked(answer))
        if not stored.get("name"):
            raise EngineFaulted("ComfyUI took a file and does not say under which name.")
        inside = stored.get("subfolder") or ""
        return f"{inside}/{stored['name']}" if inside else str(stored["name"])

    async def exists(self, file: OutputFile) -> bool:
        """Whether one of ComfyUI's folders has the file.

        Raises:
            EngineError: It does not answer.
        """
        answer = await self._send("HEAD", "/view", params=_where(file))
        if answer.status_code in {httpx.codes.OK, httpx.codes.NOT_FOUND}:
            return answer.status_code == httpx.codes.OK
        raise EngineFaulted(f"ComfyUI answered {answer.status_code} when asked for a file.")

    async def download(self, file: OutputFile) -> AsyncGenerator[bytes]:
        """A file's bytes, in bounded memory.

        Raises:
            FileNotFoundError: ComfyUI has no such file.
            EngineError: The transfer broke off.
        """
        with _translated():
            async with self._http.stream("GET", "/view", params=_where(file)) as answer:
                if answer.status_code == httpx.codes.NOT_FOUND:
                    raise FileNotFoundError(file.filename)
                if answer.status_code != httpx.codes.OK:
                    raise EngineFaulted(f"ComfyUI answered {answer.status_code} for a file.")
                async for piece in answer.aiter_bytes(_PIECE_BYTES):
                    yield piece

    # --- prompts -------------------------------------------------------------------------------

    async def submit(
        self, graph: Mapping[str, Any], *, prompt_id: str, client_id: str, preview: bool
    ) -> None:
        """Queue a graph under an id of ours.

        Args:
            graph: In API format.
            prompt_id: Canonical lower-case UUID. ComfyUI never refuses a repeat: both would run.
            client_id: Whose socket is told about the run.
            preview: Whether pictures are wanted while it samples.

        Raises:
            GraphRefused: ComfyUI does not run it, or would run only a part of it; that part is
                taken out again.
            EngineUnreachable: It was certainly not received.
            AnswerLost: It may have been received: look the id up before sending it again.
            EngineFaulted: ComfyUI failed over it.
        """
        extra = {"preview_method": "auto"} if preview else {}
        answer = await self._send(
            "POST",
            "/prompt",
            json={
                "prompt": graph,
                "prompt_id": prompt_id,
                "client_id": client_id,
                "extra_data": extra,
            },
        )
        if answer.status_code == httpx.codes.BAD_REQUEST:
            raise _refusal(_object(answer))
        told = _object(_checked(answer))
        if told.get("node_errors"):
            with suppress(EngineError):  # whoever asked sees to it that the prompt is gone
                await self.delete_pending(prompt_id)
                await self.interrupt(prompt_id)
            raise _refusal(told)

    async def queue(self) -> QueueState:
        """What runs and what waits.

        Raises:
            EngineError: It does not answer.
        """
        told = _object_of(await self._json("GET", "/queue"))
        try:
            running = tuple(item[1] for item in told["queue_running"])
            pending = tuple(item[1] for item in sorted(told["queue_pending"], key=_number))
        except _MISSHAPEN as error:
            raise EngineFaulted("ComfyUI's queue is not as expected.") from error
        return QueueState(running, pending)

    async def history(self, prompt_id: str) -> HistoryEntry | None:
        """A finished prompt; None if it is unknown or not finished.

        Raises:
            EngineError: It does not answer.
        """
        told = _object_of(await self._json("GET", f"/history/{prompt_id}"))
        if prompt_id not in told:
            return None
        try:
            return parse_history(told[prompt_id])
        except _MISSHAPEN as error:
            raise EngineFaulted("ComfyUI's history is not as expected.") from error

    async def locate(self, prompt_id: str) -> Located:
        """Where a prompt is.

        The queue is read first: ComfyUI moves a prompt from there to the history under one lock,
        so what is in neither is gone.

        Raises:
            EngineError: It does not answer.
        """
        queue = await self.queue()
        if prompt_id in queue.running:
            return Running()
        if prompt_id in queue.pending:
            return Pending()
        entry = await self.history(prompt_id)
        return Finished(entry) if entry is not None else Absent()

    async def interrupt(self, prompt_id: str) -> None:
        """Interrupt this prompt if it runs, and no other. It lands at the next step.

        Raises:
            EngineError: It does not answer.
        """
        _checked(await self._send("POST", "/interrupt", json={"prompt_id": prompt_id}))

    async def delete_pending(self, prompt_id: str) -> None:
        """Take a prompt that waits out of the queue; one that runs is left alone.

        Raises:
            EngineError: It does not answer.
        """
        _checked(await self._send("POST", "/queue", json={"delete": [prompt_id]}))

    async def free(self, *, unload_models: bool = True, free_memory: bool = True) -> None:
        """Ask for memory back. ComfyUI does it when its worker is next idle.

        Raises:
            EngineError: It does not answer.
        """
        body = {"unload_models": unload_models, "free_memory": free_memory}
        _checked(await self._send("POST", "/free", json=body))

    @asynccontextmanager
    async def stream(self, client_id: str) -> AsyncGenerator[EventStream]:
        """The websocket of a client id.

        Raises:
            StreamLost: It cannot be opened, or broke.
        """
        async with open_stream(self.base_url, client_id) as stream:
            yield stream

    # --- how a call is made --------------------------------------------------------------------

    async def _json(self, method: str, path: str) -> Any:  # noqa: ANN401 - any JSON
        answer = _checked(await self._send(method, path))
        try:
            return answer.json()
        except ValueError as error:
            raise EngineFaulted(f"ComfyUI's answer to {path} is not JSON.") from error

    async def _send(self, method: str, path: str, **how: Any) -> httpx.Response:  # noqa: ANN401
        with _translated():
            return await self._http.request(method, path, **how)


class _translated:  # noqa: N801 - reads as a word in a with statement
    """Raise our errors for httpx's: was the call received or not?"""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
            raise EngineUnreachable("ComfyUI cannot be reached.") from error
        if isinstance(error, httpx.HTTPError):
            raise AnswerLost("ComfyUI did not answer.") from error
        if isinstance(error, ValidationError):
            raise EngineFaulted("ComfyUI's answer is not as expected.") from error


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.status_code != httpx.codes.OK:
        raise EngineFaulted(
            f"ComfyUI answered {answer.status_code} to {answer.request.url.path}: "
            f"{answer.text[:200]}"
        )
    return answer


def _object(answer: httpx.Response) -> dict[str, Any]:
    try:
        return _object_of(answer.json())
    except ValueError as error:
        raise EngineFaulted(f"ComfyUI's answer is not JSON: {answer.text[:200]}") from error


def _object_of(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise EngineFaulted("ComfyUI's answer is no object.")
    return value


def _where(file: OutputFile) -> dict[str, str]:
    return {"filename": file.filename, "subfolder": file.subfolder, "type": file.type}


def _number(item: list[Any]) -> float:
    return float(item[0])


def _members(value: object) -> list[tuple[str, dict[str, Any]]]:
    found = value if isinstance(value, dict) else {}
    return [(name, one) for name, one in found.items() if isinstance(one, dict)]


def _refusal(told: Mapping[str, Any]) -> GraphRefused:
    raw = told.get("error")
    error = raw if isinstance(raw, dict) else {"message": str(raw or "A part was refused.")}
    nodes = tuple(
        NodeError(
            node_id=str(node_id),
            node_type=str(entry.get("class_type", "")),
            kind=str(one.get("type", "")),
            input=(one.get("extra_info") or {}).get("input_name"),
            message=str(one.get("message", "")),
            details=str(one.get("details", "")),
        )
        for node_id, entry in _members(told.get("node_errors"))
        for one in entry.get("errors", ())
        if isinstance(one, dict)
    )
    message = " ".join(str(error.get(key, "")) for key in ("message", "details")).strip()
    return GraphRefused(str(error.get("type", "node_errors")), message, nodes)
