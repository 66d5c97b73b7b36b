"""Debian's Chromium against real gateways and stand-ins."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from app.workflows.registry import load_workflows, standin_models
from tests.dashboard.servers import NOBODY, ROOT, Engine, Gateway, running
from tests.fullstore import fill

CHROMIUM = Path(
    os.environ.get("CHROMIUM")
    or shutil.which("chromium-headless-shell")
    or shutil.which("chromium")
    or "/usr/bin/chromium-headless-shell"
)
"""The shell without windows draws the same pages with two thirds of the time."""
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SHOTS = ROOT / "test-artifacts" / "dashboard"
TIMEOUT_MS = 60_000
"""For what the page shows within a second, on a machine that does much else."""

CLOSE_SECONDS = 30
expect.set_options(timeout=TIMEOUT_MS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CHROMIUM.exists() or os.environ.get("GATEWAY_TEST_NO_SKIP") == "1":
        return
    skip = pytest.mark.skip(
        reason=f"no Chromium at {CHROMIUM}: apt-get install chromium-headless-shell"
    )
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(skip)


@dataclass(frozen=True)
class World:
    """A gateway with a simulated card, in front of a stand-in that has everything."""

    engine: Engine
    gateway: Gateway


@dataclass(frozen=True)
class Locked:
    """A gateway that needs a key, in front of a stand-in that lacks a model and a node."""

    gateway: Gateway
    admin: dict[str, Any]

    def key(self, *scopes: str, name: str = "team") -> dict[str, Any]:
        answer = httpx.post(
            f"{self.gateway.url}/v1/keys",
            json={"name": name, "scopes": list(scopes)},
            headers=self.headers,
        )
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.admin['key']}"}


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    place = tmp_path_factory.mktemp("world")
    models = standin_models(load_workflows(ROOT / "workflows"))
    engine = Engine(place / "engine", models=models, step_seconds=0.1)
    gateway = Gateway(place / "gateway", engine.url, card=True)
    with running(engine, gateway):
        yield World(engine, gateway)


def _with_unknown_node(workflows: Path) -> Path:
    """The shipped workflows, and one that needs a node that nobody has."""
    shutil.copytree(ROOT / "workflows", workflows)
    shutil.copytree(workflows / "smoke", workflows / "tomorrow")
    manifest, graph = (workflows / "tomorrow" / name for name in ("workflow.toml", "graph.json"))
    manifest.write_text(manifest.read_text().replace("Smoke test", "Tomorrow", 1))
    graph.write_text(graph.read_text().replace('"CreateVideo"', '"NodeOfTomorrow"'))
    return workflows


@pytest.fixture(scope="package")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    place = tmp_path_factory.mktemp("locked")
    engine = Engine(place / "engine", models={}, step_seconds=0.05)
    gateway = Gateway(
        place / "gateway",
        engine.url,
        GATEWAY_WORKFLOW_OVERRIDES=json.dumps({"steadydancer": {"variant": "q8_0"}}),
        GATEWAY_WORKFLOWS_DIR=str(_with_unknown_node(place / "workflows")),
    )
    with running(engine, gateway):
        made = httpx.post(f"{gateway.url}/v1/keys", json={"name": "boss", "scopes": ["admin"]})
        assert made.status_code == 201, made.text
        yield Locked(gateway, made.json())


@pytest.fixture(scope="package")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """20,000 jobs, of which 1,000 wait for an engine that is dead."""
    place = tmp_path_factory.mktemp("full") / "gateway"
    fill(place, 20_000, queued=1_000)
    gateway = Gateway(place, NOBODY)
    with running(gateway):
        yield gateway


@pytest_asyncio.fixture(loop_scope="session", scope="package")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(
            executable_path=str(CHROMIUM), headless=True, args=FLAGS, timeout=2 * TIMEOUT_MS
        )
        yield launched
        with suppress(TimeoutError):  # its driver ends it in any case
            await asyncio.wait_for(launched.close(), CLOSE_SECONDS)


class Watched:
    """A page, and what went wrong on it that nobody asked for."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.faults: list[str] = []
        page.on("pageerror", lambda error: self.faults.append(f"thrown: {error}"))
        page.on("console", lambda message: self._said(message.type, message.text))
        page.on("request", lambda request: self._asked(request.url))

    def _said(self, kind: str, text: str) -> None:
        # The browser itself reports every refused call; what the page makes of it is tested.
        if kind in {"error", "warning"} and not text.startswith("Failed to load resource"):
            self.faults.append(f"{kind}: {text}")

    def _asked(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"data", "blob"} and parts.hostname != "127.0.0.1":
            self.faults.append(f"asked another host: {url}")


@pytest_asyncio.fixture(loop_scope="session")
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    async with fresh(browser) as made:
        yield made


@asynccontextmanager
async def fresh(browser: Browser, **how: Any) -> AsyncIterator[BrowserContext]:
    """A browser's new context. What Playwright itself waits for without a limit gets one here."""
    assert browser.is_connected(), "Chromium has ended"
    settings = {
        "viewport": {"width": 1280, "height": 860},
        "reduced_motion": "reduce",
        "color_scheme": "light",
        **how,
    }
    async with asyncio.timeout(TIMEOUT_MS / 1000):
        made = await browser.new_context(**settings)
    made.set_default_timeout(TIMEOUT_MS)
    try:
        yield made
    finally:
        async with asyncio.timeout(CLOSE_SECONDS):
            await made.close()


@pytest_asyncio.fixture(loop_scope="session")
async def page(context: BrowserContext) -> AsyncIterator[Page]:
    """A page of which every test demands: no error, no warning, no request to another host."""
    async with asyncio.timeout(TIMEOUT_MS / 1000):
        watched = Watched(await context.new_page())
    yield watched.page
    assert watched.faults == []


async def shoot(page: Page, name: str) -> None:
    """Keep a picture for people to look at."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    await page.evaluate("scrollTo(0, 0)")
    await page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


async def opened(page: Page, gateway: Gateway, place: str, heading: str) -> None:
    """Open a view and wait until it has its heading."""
    await page.goto(f"{gateway.url}/{place}")
    await page.get_by_role("heading", level=1, name=heading).wait_for()


async def later(page: Page, seconds: float) -> None:
    """Set the page's own clock ahead, once it is installed: what it planned until then, it does."""
    await page.clock.run_for(int(seconds * 1000))
