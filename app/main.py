"""The application: the gateway's parts behind the HTTP API."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app.api.app import make_api, make_probes
from app.gateway import Gateway
from app.settings import Settings


def create_app(settings: Settings, *, gateway: Gateway | None = None) -> FastAPI:
    """Make the application; its lifespan opens and closes the gateway.

    Args:
        settings: What the operator decided.
        gateway: Built parts, where some of them are not the usual ones.
    """
    built = gateway or Gateway(settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        async with built.running():
            yield

    make = make_probes if built.is_worker else make_api
    return make(built.services(), lifespan=lifespan)
