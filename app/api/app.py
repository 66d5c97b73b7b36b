"""The HTTP application, made from services that somebody else built and opened."""

from __future__ import annotations

import mimetypes
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.routing import APIRoute
from fastapi.telemetry import TelemetryConfig

from app.api import (
    access,
    artifacts,
    attempts,
    events,
    health,
    jobs,
    openapi,
    polling,
    problems,
    reference,
    system,
    uploads,
    webhooks,
    workflows,
)
from app.api.doorman import Doorman
from app.api.middleware import BodyGuard, LastCatch, SecurityHeaders
from app.api.services import Services
from app.api.submissions import form_bytes
from app.errors import StoreUnavailable
from app.telemetry import RequestTelemetry

_PAGE_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:{media}; media-src 'self' blob:{media}; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""`{media}`: where redirects to object storage lead, with a blank before it; or nothing."""

_CORS_ASKED = (
    *("Authorization", "Content-Type", "Idempotency-Key", "If-None-Match", "If-Range"),
    *("Last-Event-ID", "Range", "traceparent", "X-Filename", "X-Request-Id"),
)
_CORS_SHOWN = (
    *("Accept-Ranges", "Content-Disposition", "Content-Range", "ETag", "Idempotent-Replayed"),
    *("Location", "Retry-After", "X-Request-Id"),
)
"""What the page of a listed origin may send and read beyond what CORS always lets by."""

_NO_SECOND_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
"""FastAPI looks for an OpenTelemetry provider at each request; ours is `RequestTelemetry`."""

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def make_api(services: Services, *, lifespan: Lifespan | None = None) -> FastAPI:
    """Make the application.

    Args:
        services: What the endpoints use; open while the application serves.
        lifespan: What opens and closes them, if the application's own life decides it.
    """
    app = FastAPI(
        title="SteadyDancer gateway",
        version=services.version,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        lifespan=lifespan,
        # The redirect's target would be the Host header's, and http where TLS ends before us: a
        # client that follows it sends its key in the clear.
        redirect_slashes=False,
        telemetry=_NO_SECOND_TELEMETRY,
    )
    app.state.services = services
    app.state.doorman = _doorman(services)
    app.state.job_texts = polling.JobTexts()
    problems.install(app)
    for room in (
        polling,
        jobs,
        artifacts,
        attempts,
        events,
        uploads,
        workflows,
        webhooks,
        system,
        access,
        health,
    ):
        app.include_router(room.router)
        _add_head(app, room.router)
    _add_dashboard(app, services)
    _add_openapi(app)
    _add_reference(app, services)
    # The last one added is the first one that a request meets.
    app.add_middleware(
        BodyGuard,
        most_bytes=services.limits.max_body_bytes,
        file_bytes=form_bytes(services),
        file_paths={"/v1/jobs", "/v1/uploads"},
        idle_seconds=services.limits.body_idle_seconds,
    )
    if services.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(services.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=_CORS_ASKED,
            expose_headers=_CORS_SHOWN,
        )
    app.add_middleware(LastCatch)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestTelemetry, metrics=services.metrics)
    return app


def make_probes(services: Services, *, lifespan: Lifespan | None = None) -> FastAPI:
    """Make what a worker answers: its own health, readiness and metrics.

    Args:
        services: As `make_api` takes them.
        lifespan: Likewise.
    """
    app = FastAPI(
        title="SteadyDancer worker",
        version=services.version,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=lifespan,
        telemetry=_NO_SECOND_TELEMETRY,
    )
    app.state.services = services
    app.state.doorman = _doorman(services)
    problems.install(app)
    app.include_router(health.router)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(LastCatch)
    app.add_middleware(RequestTelemetry, metrics=services.metrics)
    return app


def _doorman(services: Services) -> Doorman:
    return Doorman(
        db=services.db,
        authenticator=services.authenticator,
        loopback=services.loopback,
        cors_origins=services.cors_origins,
    )


def _add_head(app: FastAPI, router: APIRouter) -> None:
    """Answer HEAD as GET without a body, which the server leaves out; but a stream has no end."""
    for route in router.routes:
        if not isinstance(route, APIRoute) or route.methods != {"GET"}:
            continue
        if route.endpoint is not events.stream_events:
            app.add_api_route(
                route.path,
                route.endpoint,
                methods=["HEAD"],
                include_in_schema=False,
                response_model=None,
            )


def _add_openapi(app: FastAPI) -> None:
    def made() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = openapi.document(app)
        return app.openapi_schema

    app.openapi = made  # type: ignore[method-assign]


def _add_reference(app: FastAPI, services: Services) -> None:
    async def serve() -> Response:
        text = reference.page(app.openapi(), services.workflows)
        headers = {"Content-Security-Policy": reference.POLICY, "Cache-Control": "no-cache"}
        return HTMLResponse(text, headers=headers)

    app.add_api_route("/docs", serve, methods=["GET", "HEAD"], include_in_schema=False)


def _add_dashboard(app: FastAPI, services: Services) -> None:
    """Serve the dashboard's files, each under its own path: no path of a caller names a file."""
    folder = services.dashboard
    if folder is None or not folder.is_dir():
        return
    for file in sorted(folder.rglob("*")):
        if not file.is_file() or file.name.startswith((".", "__")) or file.suffix == ".py":
            continue
        path = f"/{file.relative_to(folder).as_posix()}"
        app.add_api_route(
            "/" if path == "/index.html" else path,
            _page(file, services),
            methods=["GET", "HEAD"],
            include_in_schema=False,
        )


def _page(file: Path, services: Services) -> Callable[[], Any]:
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"

    async def serve() -> Response:
        media = ""
        if services.redirect_media and services.media_origin is not None:
            with suppress(StoreUnavailable):  # the page without its videos says more than nothing
                media = f" {await services.media_origin()}"
        policy = _PAGE_POLICY.format(media=media)
        headers = {"Content-Security-Policy": policy, "Cache-Control": "no-cache"}
        return FileResponse(file, headers=headers, media_type=kind)

    return serve
