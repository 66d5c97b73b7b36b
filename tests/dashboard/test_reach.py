"""For everybody: screen readers, narrow screens, dark rooms; and nothing jumps."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from tests.dashboard.axe import COLORS, RULES, faults
from tests.dashboard.conftest import World, fresh, later, opened, shoot
from tests.dashboard.test_views import finished

pytestmark = pytest.mark.asyncio(loop_scope="session")

VIEWS = [("#/now", "Now"), ("#/jobs", "Jobs"), ("#/new", "New job"), ("#/engine", "Engine")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_in_any_view(browser: Browser, world: World, scheme: Any) -> None:
    rules = RULES if scheme == "light" else COLORS  # all else is the same in the dark
    job_id = await finished(world)
    async with fresh(browser, color_scheme=scheme) as context:
        page = await context.new_page()
        for place, heading in VIEWS:
            await opened(page, world.gateway, place, heading)
            await expect(page.locator(".loading")).to_have_count(0)
            assert await faults(page, rules) == [], place
            if scheme == "dark":
                await shoot(page, f"dark-{heading.lower().replace(' ', '-')}")
        await page.goto(f"{world.gateway.url}/#/job/{job_id}")
        await page.get_by_role("link", name="Download").wait_for()
        await expect(page.locator(".events li").first).to_be_visible()
        assert await faults(page, rules) == []
        if scheme == "dark":
            await shoot(page, "dark-job")


async def test_a_narrow_screen_shows_every_view_without_sideways_scrolling(
    browser: Browser, world: World
) -> None:
    job_id = await finished(world)
    async with fresh(browser, viewport={"width": 360, "height": 740}) as context:
        page = await context.new_page()
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
