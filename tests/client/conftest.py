"""The real gateway, and both clients behind one face, so that each promise is held by both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from app import wire
from app.client import AsyncGatewayClient, GatewayClient, JobRequest, Retry
from tests.livekit import FILES, Cutter, Live, live


@pytest.fixture(scope="package")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("client"), GATEWAY_ALLOW_HOSTS="127.0.0.1") as running:
        yield running


@pytest.fixture(scope="package")
def finished(gateway: Live) -> wire.Job:
    """A job that succeeded, for tests that only look at it."""
    with GatewayClient(gateway.url) as client:
        asked = JobRequest(workflow="smoke", request={"frames": 5})
        return client.wait(client.submit(asked, files=FILES).id, seconds=120)


@pytest.fixture
def cutter(gateway: Live) -> Iterator[Cutter]:
    relay = Cutter(gateway.url)
    yield relay
    relay.close()


class Driver:
    """Calls either client; what iterates is given as a list."""

    def __init__(self, kind: str, url: str, retry: Retry) -> None:
        self._sync = GatewayClient(url, retry=retry) if kind == "sync" else None
        self._async = AsyncGatewayClient(url, retry=retry) if kind == "async" else None

    async def __call__(self, name: str, *args: Any, **words: Any) -> Any:
        if self._sync is not None:
            return await asyncio.to_thread(self._call, name, args, words)
        found = getattr(self._async, name)(*args, **words)
        if name in {"list", "events"}:
            return [one async for one in found]
        return await found

    def _call(self, name: str, args: Any, words: Any) -> Any:
        found = getattr(self._sync, name)(*args, **words)
        return list(found) if name in {"list", "events"} else found

    async def close(self) -> None:
        if self._sync is not None:
            self._sync.close()
        if self._async is not None:
            await self._async.aclose()


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def call(kind: str, gateway: Live) -> AsyncIterator[Driver]:
    driver = Driver(kind, gateway.url, Retry(seconds=60))
    yield driver
    await driver.close()


@pytest.fixture
async def shaky(kind: str, cutter: Cutter) -> AsyncIterator[Driver]:
    """Through the relay that loses connections."""
    driver = Driver(kind, cutter.url, Retry(seconds=60, first_seconds=0.02))
    yield driver
    await driver.close()
