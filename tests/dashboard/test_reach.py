"""For everybody: screen readers, keyboard, narrow screens, dark rooms; and nothing jumps."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from tests.dashboard.conftest import TIMEOUT_MS, World, later, opened, shoot
from tests.dashboard.servers import Gateway
from tests.dashboard.test_views import finished

pytestmark = pytest.mark.asyncio(loop_scope="session")

AXE = (Path(__file__).parent / "vendor" / "axe.js").read_text(encoding="utf-8")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
VIEWS = [("#/now", "Now"), ("#/jobs", "Jobs"), ("#/new", "New job"), ("#/engine", "Engine")]


async def faults(page: Page) -> list[str]:
    """What axe-core finds wrong."""
    await page.evaluate(AXE)
    found: dict[str, Any] = await page.evaluate(
        f"axe.run(document, {{runOnly: {json.dumps(RULES)}, resultTypes: ['violations']}})"
    )
    return [
        f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:160]}"
        for one in found["violations"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_in_any_view(
    browser: Browser, world: World, full: Gateway, scheme: Any
) -> None:
    job_id = await finished(world)
    context = await browser.new_context(
        viewport={"width": 1280, "height": 860}, color_scheme=scheme, reduced_motion="reduce"
    )
    context.set_default_timeout(TIMEOUT_MS)
    page = await context.new_page()
    try:
        for place, heading in VIEWS:
            await opened(page, world.gateway, place, heading)
            await expect(page.locator(".loading")).to_have_count(0)
            assert await faults(page) == [], place
            if scheme == "dark":
                await shoot(page, f"dark-{heading.lower().replace(' ', '-')}")
        await page.goto(f"{world.gateway.url}/#/job/{job_id}")
        await page.get_by_role("link", name="Download").wait_for()
        await expect(page.locator(".events li").first).to_be_visible()
        assert await faults(page) == []
        if scheme == "dark":
            await shoot(page, "dark-job")
        await opened(page, full, "", "Now")
        assert await faults(page) == []
    finally:
        await context.close()


async def test_a_narrow_screen_shows_every_view_without_sideways_scrolling(
    browser: Browser, world: World
) -> None:
    job_id = await finished(world)
    context = await browser.new_context(
        viewport={"width": 360, "height": 740}, reduced_motion="reduce"
    )
    context.set_default_timeout(TIMEOUT_MS)
    page = await context.new_page()
    try:
        for place in (*(place for place, _ in VIEWS), f"#/job/{job_id}"):
            await page.goto(f"{world.gateway.url}/{place}")
            await page.locator("h1").wait_for()
            await expect(page.locator(".loading")).to_have_count(0)
            if job_id in place:
                await expect(page.locator(".events li").first).to_be_visible()
            wide = await page.evaluate("document.documentElement.scrollWidth")
            assert wide <= 360, place
            await shoot(page, f"narrow-{place.split('/')[1]}")
        assert await faults(page) == []
    finally:
        await context.close()


async def test_everything_is_reached_by_keyboard(page: Page, full: Gateway) -> None:
    await opened(page, full, "", "Now")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    await page.keyboard.press("2")
    await expect(page.get_by_role("heading", level=1, name="Jobs")).to_be_focused()
    await expect(page.locator(".jobs tbody tr")).to_have_count(50)
    await page.keyboard.press("j")
    await page.keyboard.press("j")
    await expect(page.get_by_role("link", name="job 99998")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1, name="job 99998")).to_be_focused()
    await page.keyboard.press("/")
    await expect(page.get_by_role("searchbox", name="Search")).to_be_focused()
    await page.keyboard.type("n?")
    await expect(page.get_by_role("searchbox", name="Search")).to_have_value("n?")
    await page.locator("h1").focus()
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    await page.get_by_label("Single-key shortcuts").uncheck()
    await page.keyboard.press("Escape")
    await page.keyboard.press("1")
    await expect(page.get_by_role("heading", level=1, name="Jobs")).to_be_visible()


async def test_the_focus_is_seen_and_motion_is_for_who_wants_it(page: Page, full: Gateway) -> None:
    await opened(page, full, "#/jobs", "Jobs")
    await page.locator(".jobs tbody tr").first.wait_for()
    await page.get_by_role("searchbox", name="Search").focus()
    ring = "getComputedStyle(document.activeElement).outline"
    assert "2px" in await page.evaluate(ring)
    await page.keyboard.press("Tab")
    assert "2px" in await page.evaluate(ring)
    moving = (
        "[...document.querySelectorAll('*')]"
        ".some(one => getComputedStyle(one).transitionDuration !== '0s')"
    )
    assert not await page.evaluate(moving)
    await page.emulate_media(reduced_motion="no-preference")
    assert await page.evaluate(moving)


async def test_the_colors_can_be_chosen_and_stay(page: Page, full: Gateway) -> None:
    await opened(page, full, "", "Now")
    shade = "getComputedStyle(document.body).backgroundColor"
    light = await page.evaluate(shade)
    button = page.get_by_role("button", name="Colors")
    await button.click()
    await button.click()
    dark = await page.evaluate(shade)
    assert dark != light
    await page.reload()
    await page.locator("h1").wait_for()
    assert await page.evaluate(shade) == dark


async def test_nothing_moves_while_a_job_runs_and_the_page_polls(page: Page, world: World) -> None:
    await page.clock.install()
    await opened(page, world.gateway, "", "Now")
    await expect(page.locator(".figures")).to_be_visible()
    await page.locator(".chart canvas").wait_for()
    await page.evaluate(
        "window.moved = 0; new PerformanceObserver(list => { for (const one of list.getEntries())"
        " moved += one.value; }).observe({type: 'layout-shift'})"
    )
    world.engine.misbehave("hang", times=1)
    job = await asyncio.to_thread(world.gateway.submit, metadata={"name": "watched"})
    await later(page, 3)
    await expect(page.locator(".slot").first).to_contain_text("watched")
    world.engine.behave()
    await asyncio.to_thread(world.gateway.until, job["id"], "succeeded")
    await later(page, 3)
    await expect(page.locator(".slot").first).to_contain_text("Nothing runs.")
    await opened(page, world.gateway, "#/jobs", "Jobs")
    await expect(page.locator(".jobs tbody tr").first).to_contain_text("watched")
    await page.evaluate("window.moved = 0")
    await asyncio.to_thread(world.gateway.submit, metadata={"name": "one more"})
    await later(page, 4)
    await expect(page.locator(".jobs tbody tr").first).to_contain_text("one more")
    assert await page.evaluate("moved") < 0.1


async def test_a_search_is_understood(page: Page, full: Gateway) -> None:
    await opened(page, full, "", "Now")
    parse = "async text => (await import('/js/parts/search.js')).parseSearch(text)"
    whole = "01a2096c-b030-76d2-a8b5-da91d5778eb1"
    assert (await page.evaluate(parse, whole))["id"] == whole
    assert await page.evaluate(parse, " ") == {"kind": "all", "query": {}}
    assert (await page.evaluate(parse, "user=ann, shot=7"))["query"] == {
        "metadata.user": "ann",
        "metadata.shot": "7",
    }
    assert (await page.evaluate(parse, "rain dance"))["query"] == {"metadata.name": "rain dance"}
    span = (await page.evaluate(parse, "01a2096c"))["query"]
    assert span["created_after"] < span["created_before"]
