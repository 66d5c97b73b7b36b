"""Logs, metric objects and trace ids. Nothing here knows what is logged or counted."""

from __future__ import annotations

import logging
import re
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Literal, TextIO
from uuid import uuid4

import structlog
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from structlog.typing import Processor

# --- logs ----------------------------------------------------------------------------------

_QUIET = ("alembic", "asyncio", "httpcore", "httpx", "sqlalchemy", "websockets")
"""Libraries of which only warnings are of interest to an operator."""


def configure_logging(
    *,
    log_format: Literal["auto", "json", "console"],
    level: str,
    stream: TextIO | None = None,
) -> None:
    """Send every log line of the process, libraries included, through structlog to one stream.

    Args:
        log_format: `json` is one object a line; `console` is for people; `auto` chooses by
            whether the stream is a terminal.
        level: `debug`, `info`, `warning` or `error`.
        stream: Where to; standard error if not given, so that a command's output stays clean.
    """
    stream = stream or sys.stderr
    as_json = log_format == "json" or (log_format == "auto" and not stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if as_json:
        last += [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ]
    else:
        last.append(
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last)
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    # The middleware below writes a better line for each request.
    logging.getLogger("uvicorn.access").disabled = True
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


bound = structlog.contextvars.bound_contextvars
"""`with bound(job_id=…, attempt=…):` puts these into every line logged inside, also by libraries.
A task that is started inside keeps them."""


# --- traces --------------------------------------------------------------------------------

_TRACESTATE = re.compile(r"[\x20-\x7e]{1,512}")
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True)
class Trace:
    """A place in a distributed trace (https://www.w3.org/TR/trace-context/).

    Attributes:
        trace_id: 32 lowercase hex digits, shared by the whole trace.
        span_id: 16 lowercase hex digits: this part of it.
        sampled: Whether the caller records the trace.
        state: What the tracing systems on the way added (`tracestate`); handed on as it came.
    """

    trace_id: str
    span_id: str
    sampled: bool = False
    state: str = ""

    @classmethod
    def new(cls) -> Trace:
        """Begin a trace."""
        return cls(trace_id=secrets.token_hex(16), span_id=secrets.token_hex(8))

    @classmethod
    def parse(cls, header: str | None, state: str | None = None) -> Trace | None:
        """Read a `traceparent` header; None where it is absent or invalid, as the standard asks.

        Args:
            header: The `traceparent` header.
            state: The `tracestate` header, dropped where it is longer than 512 characters.
        """
        found = _TRACEPARENT.fullmatch((header or "").strip())
        if found is None:
            return None
        version, trace_id, span_id, flags, rest = found.groups()
        if version == "ff" or (version == "00" and rest is not None):
            return None
        if not int(trace_id, 16) or not int(span_id, 16):
            return None
        state = (state or "").strip()
        return cls(
            trace_id=trace_id,
            span_id=span_id,
            sampled=bool(int(flags, 16) & 1),
            state=state if _TRACESTATE.fullmatch(state) else "",
        )

    def child(self) -> Trace:
        """The next part of the same trace."""
        return replace(self, span_id=secrets.token_hex(8))

    def header(self) -> str:
        """The `traceparent` header that passes the trace on."""
        return f"00-{self.trace_id}-{self.span_id}-{int(self.sampled):02x}"

    def headers(self) -> dict[str, str]:
        """All headers that pass the trace on; also the form in which it is stored."""
        state = {"tracestate": self.state} if self.state else {}
        return {"traceparent": self.header(), **state}


_current: ContextVar[Trace | None] = ContextVar("trace", default=None)


def continue_trace(headers: Mapping[str, str] | None) -> None:
    """Take a stored trace up again, in this task and those that it starts from now on.

    Its id is in their log lines, and `trace_headers` gives what their calls to others bear.

    Args:
        headers: What `Trace.headers` gave; without any the task has no trace.
    """
    given = headers or {}
    found = Trace.parse(given.get("traceparent"), given.get("tracestate"))
    if found is not None:
        span = found.child()
        _current.set(span)
        structlog.contextvars.bind_contextvars(trace_id=span.trace_id, span_id=span.span_id)


def trace_headers() -> dict[str, str]:
    """The headers of a call to another server: a span of its own in the task's trace."""
    trace = _current.get()
    return trace.child().headers() if trace is not None else {}


# --- metrics -------------------------------------------------------------------------------

_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_LONG = (0.1, 0.5, 1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
_GIB = 1024.0**3
_VRAM = tuple(n * _GIB for n in (4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 141))


class Metrics:
    """Every metric, on a registry of its own. Memory is in bytes here, Prometheus' base unit."""

    def __init__(self) -> None:
        self.registry = reg = CollectorRegistry()
        ProcessCollector(registry=reg)
        GCCollector(registry=reg)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"steadydancer_{name}", text, labels, registry=reg)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"steadydancer_{name}", text, labels, registry=reg)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"steadydancer_{name}", text, labels, buckets=buckets, registry=reg)

        self.jobs = gauge("jobs", "Jobs in the store by status.", "status")
        self.submitted = counter("jobs_submitted_total", "Jobs accepted.", "workflow")
        self.finished = counter("jobs_finished_total", "Jobs ended.", "workflow", "status")
        self.lost = counter("attempts_lost_total", "Attempts lost, by reason.", "reason")
        self.queue_depth = gauge("queue_depth", "Jobs that are queued.", "phase")
        self.queue_age = gauge("queue_oldest_age_seconds", "Age of the oldest queued job.")
        self.queue_wait = histogram(
            "job_queue_duration_seconds", "Submission to start.", _LONG, "workflow"
        )
        self.run = histogram("job_run_duration_seconds", "Start to end.", _LONG, "workflow")
        self.phase = histogram(
            "job_phase_duration_seconds", "Time in a phase.", _LONG, "workflow", "phase"
        )
        self.engine_up = gauge("engine_up", "Whether ComfyUI answers.", "engine")
        self.engine_restarts = counter("engine_restarts_total", "Starts after the first.", "engine")
        self.vram_total = gauge("vram_total_bytes", "Memory of the card.", "gpu")
        self.vram_free = gauge("vram_free_bytes", "Free memory of the card.", "gpu")
        self.vram_engine = gauge("vram_engine_bytes", "Memory that ComfyUI holds.", "gpu")
        self.vram_room = gauge("vram_room_bytes", "What a job may use now.", "gpu")
        self.vram_need = gauge("vram_need_bytes", "What the next job needs; 0 without one.", "gpu")
        self.vram_peak = histogram(
            "job_vram_peak_bytes", "Peak memory of an attempt.", _VRAM, "workflow"
        )
        self.webhooks = counter("webhook_tries_total", "Webhook tries by outcome.", "outcome")
        self.webhook_seconds = histogram("webhook_duration_seconds", "One webhook try.", _SHORT)
        self.store_bytes = gauge("store_bytes", "Size of what is stored.", "kind")
        self.http = counter("http_requests_total", "Requests.", "route", "method", "status")
        self.http_seconds = histogram(
            "http_request_duration_seconds", "Request to last byte.", _SHORT, "route", "method"
        )
        self.http_open = gauge("http_requests_in_progress", "Requests being answered.")

    def webhook(self, outcome: str, seconds: float) -> None:
        """Count a webhook try."""
        self.webhooks.labels(outcome).inc()
        self.webhook_seconds.observe(seconds)

    def render(self) -> tuple[bytes, str]:
        """What a scrape gets, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


# --- requests ------------------------------------------------------------------------------

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_LOOKS = frozenset({"GET", "HEAD"})
_SLOW_SECONDS = 1.0
"""A look that was answered well, and sooner than this, is logged at the level `debug` only."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_UNMATCHED = "unmatched"


class RequestTelemetry:
    """Plain ASGI middleware: a request id, a trace, a log line and metrics for each request.

    `X-Request-Id` is taken over where it is harmless, made where it is not, and answered. Routes
    are counted by their template and unknown paths and methods as one, or strangers could fill
    the memory with labels.

    Args:
        app: The ASGI application.
        metrics: Where to count.
    """

    def __init__(self, app: App, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._counted: dict[tuple[str, str, str], tuple[Counter, Histogram]] = {}
        self._log = structlog.stdlib.get_logger("gateway.http")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"])
        asked = given.get(b"x-request-id", b"").decode("latin-1")
        request_id = asked if _REQUEST_ID.fullmatch(asked) else str(uuid4())
        trace = _trace_of(scope, given.get(b"traceparent"))
        scope.setdefault("state", {})["trace"] = trace
        scope["state"]["request_id"] = request_id
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = [(b"x-request-id", request_id.encode())]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        begun = time.perf_counter()
        with (
            self._metrics.http_open.track_inprogress(),
            bound(request_id=request_id, trace_id=trace.trace_id, span_id=trace.span_id),
        ):
            try:
                await self._app(scope, receive, watched)
            except Exception:
                status = status or 500
                raise
            finally:
                self._note(scope, status, time.perf_counter() - begun)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", _UNMATCHED)
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        # No status means that the client went away before there was an answer.
        key = (route, method, str(status or 499))
        if (found := self._counted.get(key)) is None:
            found = self._counted[key] = (
                self._metrics.http.labels(*key),
                self._metrics.http_seconds.labels(route, method),
            )
        counter, histogram = found
        counter.inc()
        histogram.observe(seconds)
        # Dashboards and clients look many times a second, all night; the metrics count them.
        looked = method in _LOOKS and 200 <= status < 400 and seconds < _SLOW_SECONDS
        (self._log.debug if looked else self._log.info)(
            "request",
            method=method,
            route=route,
            path=scope["path"],
            status=status or None,
            duration_seconds=round(seconds, 6),
        )


def _trace_of(scope: Scope, traceparent: bytes | None) -> Trace:
    """The place of a request in the caller's trace, or in a new one."""
    if traceparent is not None:
        states = [value for name, value in scope["headers"] if name == b"tracestate"]
        state = b",".join(states).decode("latin-1")
        if (caller := Trace.parse(traceparent.decode("latin-1"), state)) is not None:
            return caller.child()
    return Trace.new()
