"""Odd states: nothing there, very much there, dead engine, revoked key, lost network; and keys."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta

import pytest
from playwright.async_api import BrowserContext, Page, Route, expect

from tests.dashboard.axe import faults
from tests.dashboard.conftest import Locked, later, opened, shoot
from tests.dashboard.servers import SAMPLES, Gateway
from tests.fullstore import DAYS

HALF = timedelta(days=DAYS / 2)

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def sign_in(page: Page, locked: Locked, key: str) -> None:
    await opened(page, locked.gateway, "", "Sign in")
    await page.get_by_label("API key").fill(key)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("heading", level=1, name="Now")).to_be_visible()


async def test_a_wrong_key_is_refused_and_a_right_one_is_kept_where_scripts_cannot_read_it(
    page: Page, context: BrowserContext, locked: Locked
) -> None:
    await opened(page, locked.gateway, "", "Sign in")
    await page.get_by_label("API key").fill("sdk_nonsense")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.locator("#key-problem")).not_to_be_empty()
    await shoot(page, "sign-in")
    await sign_in(page, locked, locked.admin["key"])
    assert await page.evaluate("document.cookie") == ""
    kept = await page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    assert locked.admin["key"] not in kept
    cookie = next(one for one in await context.cookies() if one["name"] == "steadydancer_session")
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("heading", level=1, name="Sign in")).to_be_visible()


async def test_a_revoked_key_is_said_and_another_one_goes_on_at_the_same_place(
    page: Page, locked: Locked
) -> None:
    made = locked.key("submit", "read", name="soon gone")
    await page.clock.install()
    await sign_in(page, locked, made["key"])
    await page.get_by_role("link", name="Engine").click()
    await expect(page.get_by_text("Draining needs an admin key.")).to_be_visible()
    assert locked.gateway.call("DELETE", f"/v1/keys/{made['id']}", **locked.headers) == 200
    await later(page, 4)
    await expect(page.get_by_role("heading", level=1, name="Sign in")).to_be_visible()
    await expect(page.get_by_role("alert").first).to_contain_text("its key was revoked")
    await page.get_by_label("API key").fill(locked.admin["key"])
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("heading", level=1, name="Engine")).to_be_visible()
    await expect(page.get_by_role("button", name="Drain")).to_be_visible()


async def test_what_is_missing_is_named_and_an_empty_list_invites(
    page: Page, locked: Locked
) -> None:
    await sign_in(page, locked, locked.admin["key"])
    await page.get_by_role("link", name="Engine").click()
    missing = page.get_by_role("table", name="Missing for SteadyDancer")
    await expect(missing).to_contain_text("Model file")
    await expect(missing).to_contain_text(re.compile(r"\.(safetensors|gguf|pth|onnx)"))
    await expect(page.get_by_role("table", name="Missing for Tomorrow")).to_contain_text(
        re.compile(r"Node\s*NodeOfTomorrow")
    )
    await shoot(page, "engine-missing")
    await page.get_by_role("link", name="Jobs").click()
    await expect(page.get_by_text("No jobs yet.")).to_be_visible()
    await shoot(page, "jobs-none")
    await page.get_by_role("link", name="Make the first one").click()
    await expect(page.get_by_label("Workflow")).to_be_visible()


async def test_one_job_is_a_list_that_says_whose_it_is(page: Page, locked: Locked) -> None:
    ann = locked.key("submit", "read", name="ann")
    headers = {"Authorization": f"Bearer {ann['key']}"}
    job = await asyncio.to_thread(
        locked.gateway.submit,
        workflow="smoke",
        headers=headers,
        request={"width": 64, "height": 64, "frames": None, "prompt": None},
        metadata={"name": "the only one"},
    )
    await sign_in(page, locked, locked.admin["key"])
    await page.get_by_role("link", name="Jobs").click()
    rows = page.locator(".jobs tbody tr")
    await expect(rows).to_have_count(1)
    await expect(rows.first).to_contain_text("the only one")
    await expect(rows.first).to_contain_text("by ann")
    await expect(page.get_by_role("link", name="Older")).to_have_count(0)
    await shoot(page, "jobs-one")
    await rows.first.get_by_role("link").click()
    await expect(page.get_by_role("heading", level=1, name="the only one")).to_be_visible()
    await expect(page.get_by_role("heading", name="Facts").locator("..")).to_contain_text("ann")
    assert locked.gateway.call("POST", f"/v1/jobs/{job['id']}/cancel", **headers) == 200


async def test_a_key_that_may_only_read_is_told_so(page: Page, locked: Locked) -> None:
    await sign_in(page, locked, locked.key("read", name="looker")["key"])
    await page.get_by_role("link", name="New job").click()
    await expect(page.get_by_text("This key may look, but not submit.")).to_be_visible()
    await expect(page.get_by_role("button", name="Send")).to_be_disabled()


async def test_a_stale_cookie_of_another_gateway_is_no_obstacle(
    page: Page, context: BrowserContext, full: Gateway
) -> None:
    await context.add_cookies(
        [{"name": "steadydancer_session", "value": "sds_other", "url": full.url}]
    )
    await opened(page, full, "", "Now")


async def test_a_dead_engine_is_said_in_words(page: Page, full: Gateway) -> None:
    await opened(page, full, "", "Now")
    await expect(page.get_by_role("alert")).to_contain_text("ComfyUI is unreachable")
    await expect(page.locator(".figures")).to_contain_text("1,000")
    await expect(page.locator(".admission")).to_contain_text("job 19000")
    await shoot(page, "now-dead-engine")
    assert await faults(page) == []
    await page.set_viewport_size({"width": 360, "height": 740})
    assert await page.evaluate("document.documentElement.scrollWidth") <= 360
    cut = (
        "[...document.querySelectorAll('.figures dd')]"
        ".some(one => one.scrollWidth > one.clientWidth)"
    )
    assert not await page.evaluate(cut)
    await shoot(page, "narrow-now-dead-engine")
    await page.set_viewport_size({"width": 1280, "height": 860})
    await page.get_by_role("link", name="Engine", exact=True).click()
    await expect(page.get_by_role("heading", name="Not ready")).to_be_visible()
    learned = page.get_by_role("table", name=re.compile("Highest memory"))
    await expect(learned).to_contain_text("12.0 GiB")
    assert await faults(page) == []


async def test_an_endpoint_for_bursts_is_shown_beside_the_engines(
    page: Page, full: Gateway
) -> None:
    async def with_endpoint(route: Route) -> None:
        answer = await route.fetch()
        system = await answer.json()
        endpoint = {
            **system["engines"][0],
            "name": "serverless",
            "state": "ready",
            "detail": "Workers: 1 running, 0 idle. Jobs: 1 running, 2 waiting.",
            "admission": "1 of 3 jobs are there.",
        }
        await route.fulfill(json={**system, "engines": [*system["engines"], endpoint]})

    await page.route("**/v1/system", with_endpoint)
    await opened(page, full, "", "Now")
    panel = page.get_by_role("region", name="Serverless endpoint")
    await expect(panel).to_contain_text("Workers: 1 running")
    await expect(panel).to_contain_text("1 of 3 jobs are there.")
    await expect(panel).not_to_contain_text("Staged")
    await shoot(page, "now-endpoint")
    assert await faults(page) == []


async def test_the_next_job_is_the_one_that_starts_next_however_many_wait(
    page: Page, full: Gateway
) -> None:
    job = await asyncio.to_thread(full.submit, priority=50, metadata={"name": "urgent"})
    try:
        await opened(page, full, "", "Now")
        await expect(page.locator(".admission")).to_contain_text("Next: urgent")
        await expect(page.locator(".figures")).to_contain_text("1,001")
    finally:
        assert full.call("POST", f"/v1/jobs/{job['id']}/cancel") == 200
        assert full.call("DELETE", f"/v1/jobs/{job['id']}") == 204


async def test_an_estimate_says_how_many_are_ahead(page: Page, full: Gateway) -> None:
    await opened(page, full, "#/new", "New job")
    await expect(page.locator(".callout").first).to_contain_text(
        "cannot run here now, since no engine is ready. See what is missing"
    )
    await expect(page.locator(".estimate")).to_contain_text("1,000 ahead")


async def test_very_many_jobs_are_paged_filtered_and_found(page: Page, full: Gateway) -> None:
    await opened(page, full, "#/jobs", "Jobs")
    rows = page.locator(".jobs tbody tr")
    await expect(rows).to_have_count(50)
    await expect(rows.first).to_contain_text("job 19999")
    await shoot(page, "jobs-many")
    await page.get_by_role("link", name="Older").click()
    await expect(rows.first).to_contain_text("job 19949")
    await expect(page.locator(".pages")).to_contain_text("Page 2")
    await expect(rows).to_have_count(50)
    await page.get_by_role("button", name="Back", exact=True).click()
    await expect(rows.first).to_contain_text("job 19999")
    await page.get_by_label("Up to the day").fill(str((datetime.now(UTC) - HALF).date()))
    await expect(rows.first).to_contain_text(re.compile(r"job (9|10)\d{3}"))
    await expect(rows).to_have_count(50)
    await page.get_by_label("Up to the day").fill("")
    await page.get_by_label("Status").select_option("failed")
    await expect(rows.first).to_contain_text("job 18995")
    await expect(rows.first).to_contain_text("The GPU ran out of memory")
    search = page.get_by_role("searchbox", name="Search")
    await search.fill("job 18990")
    await search.press("Enter")
    await expect(rows).to_have_count(1)
    href = await rows.first.get_by_role("link").get_attribute("href")
    assert href is not None
    start = href.rpartition("/")[2][:15]
    await search.fill(start)
    await search.press("Enter")
    await expect(rows).to_have_count(1)
    await expect(rows.first).to_contain_text("job 18990")


async def test_a_lost_network_is_said_and_the_page_comes_back_by_itself(
    page: Page, context: BrowserContext, full: Gateway
) -> None:
    await page.clock.install()
    await opened(page, full, "", "Now")
    await expect(page.locator(".figures")).to_be_visible()
    await context.set_offline(True)
    await later(page, 3)
    bar = page.locator(".connection")
    await expect(bar).to_contain_text("This computer is offline.")
    await expect(page.locator(".figures")).to_be_visible()
    await shoot(page, "lost-network")
    await context.set_offline(False)
    await expect(bar).to_be_empty()


async def test_a_gateway_that_does_not_answer_at_first_is_asked_again(
    page: Page, full: Gateway
) -> None:
    async def refuse(route: Route) -> None:
        await route.abort()

    await page.clock.install()
    await page.route("**/v1/session", refuse)
    await page.goto(full.url)
    await expect(page.locator(".connection")).to_contain_text("does not answer")
    await page.unroute("**/v1/session")
    await later(page, 4)
    await expect(page.get_by_role("heading", level=1, name="Now")).to_be_visible()


async def test_what_did_not_change_is_answered_with_304(page: Page, full: Gateway) -> None:
    await page.clock.install()
    await opened(page, full, "#/jobs", "Jobs")
    await expect(page.locator(".jobs tbody tr")).to_have_count(50)
    async with page.expect_response(
        lambda answer: "/v1/jobs?" in answer.url and answer.status == 304
    ):
        await later(page, 4)


async def test_a_hidden_page_asks_rarely_and_at_once_when_it_is_seen(
    page: Page, full: Gateway
) -> None:
    await page.add_init_script(
        "let hidden = false;"
        "Object.defineProperty(document, 'hidden', {get: () => hidden});"
        "window.hide = value => { hidden = value;"
        " document.dispatchEvent(new Event('visibilitychange')); };"
    )
    await page.clock.install()
    await opened(page, full, "#/jobs", "Jobs")
    await expect(page.locator(".jobs tbody tr")).to_have_count(50)
    await page.evaluate("hide(true)")
    async with page.expect_response("**/v1/jobs?*"):  # the one call that was planned before
        await later(page, 4)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await later(page, 40)
    assert asked == []
    async with page.expect_response("**/v1/jobs?*"):
        await later(page, 25)
    async with page.expect_response("**/v1/jobs?*"):
        await page.evaluate("hide(false)")


async def test_a_job_that_is_not_there_leads_back(page: Page, full: Gateway) -> None:
    nobody = "00000000-0000-7000-8000-000000000000"
    await page.goto(f"{full.url}/#/job/{nobody}")
    await expect(page.get_by_role("alert")).to_contain_text("There is no job")
    await page.goto(f"{full.url}/#/nowhere")
    await expect(page.get_by_text("There is no such page.")).to_be_visible()


async def test_everything_is_reached_by_keyboard(page: Page, full: Gateway) -> None:
    await opened(page, full, "", "Now")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    await page.keyboard.press("2")
    await expect(page.get_by_role("heading", level=1, name="Jobs")).to_be_focused()
    await expect(page.locator(".jobs tbody tr")).to_have_count(50)
    await page.keyboard.press("j")
    await page.keyboard.press("j")
    await expect(page.get_by_role("link", name="job 19998")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1, name="job 19998")).to_be_focused()
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


async def test_figures_are_shown_as_what_they_are(page: Page, full: Gateway) -> None:
    await opened(page, full, "", "Now")
    span = "async readings => (await import('/js/parts/chart.js')).span(readings, 120)"
    assert await page.evaluate(span, [1000]) == [880, 1000]  # one reading is no thousand days
    assert await page.evaluate(span, [700, 1000]) == [700, 1000]
    left = "async seconds => (await import('/js/format.js')).left(seconds)"
    assert await page.evaluate(left, 65) == "1 min 05 s left"
    assert await page.evaluate(left, 0.0) == ""  # it takes longer than expected: nobody knows


async def test_a_changed_name_is_another_submission(page: Page, full: Gateway) -> None:
    """After a lost answer the same form is the same job; a changed one is not taken for it."""
    keys: list[str | None] = []

    async def lose(route: Route) -> None:
        keys.append(await route.request.header_value("idempotency-key"))
        await route.abort()

    await page.route("**/v1/jobs", lose)
    await opened(page, full, "#/new", "New job")
    await page.set_input_files("#field-reference_image", SAMPLES / "photo.jpg")
    await page.set_input_files("#field-driving_video", SAMPLES / "dance.mp4")
    await page.get_by_label("Prompt", exact=True).fill("a dance")
    await expect(page.locator(".drop-picture video")).to_be_visible()
    send = page.get_by_role("button", name="Send")
    for change in (None, None, "another name"):
        if change:
            await page.get_by_label("Name", exact=True).fill(change)
        await send.click()
        await expect(page.locator(".sticky .fault")).to_contain_text("does not answer")
        await expect(send).to_be_enabled()
    assert keys[0] == keys[1] != keys[2]


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
