"""Every view, and every action in it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.dashboard.conftest import World, opened, shoot
from tests.dashboard.servers import SAMPLES

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_job_is_made_with_an_estimate_followed_with_previews_and_seen(
    page: Page, world: World
) -> None:
    await opened(page, world.gateway, "#/new", "New job")
    await page.set_input_files("#field-reference_image", SAMPLES / "photo.jpg")
    await page.set_input_files("#field-driving_video", SAMPLES / "dance.mp4")
    await expect(page.get_by_text(re.compile("480 . 832 · 17.4 kB"))).to_be_visible()
    await expect(page.get_by_text(re.compile("480 . 832 · 144 frames"))).to_be_visible()
    await page.get_by_label("Prompt", exact=True).fill("a person dances in the rain")
    await page.get_by_label("Name", exact=True).fill("rain dance")
    await page.get_by_label("Frames").fill("33")
    await page.get_by_label("Steps").evaluate("field => field.closest('details').open = true")
    await page.get_by_label("Steps").fill("8")
    estimate = page.locator(".estimate")
    await expect(estimate).to_contain_text("Fits this card")
    await expect(estimate).to_contain_text(re.compile("480 . 832, 33 frames"))
    await expect(estimate).to_contain_text("first")
    await shoot(page, "new-job")

    world.engine.misbehave("hang", at_step=3, times=1)
    await page.get_by_role("button", name="Send").click()
    await expect(page.get_by_role("heading", level=1, name="rain dance")).to_be_visible()
    await expect(page.get_by_alt_text("Preview while sampling")).to_be_visible()
    await expect(page.locator(".going-line")).to_contain_text(re.compile(r"step \d of 8"))
    await shoot(page, "job-running")
    await page.get_by_role("link", name="Jobs").click()
    row = page.locator(".jobs tbody tr", has_text="rain dance")
    await expect(row.locator(".col-progress")).to_contain_text(re.compile(r"\d+ % · .+ left"))
    await expect(row).to_contain_text("a person dances in the rain")
    await row.get_by_role("link").click()
    world.engine.behave()
    await expect(page.get_by_role("link", name="Download")).to_be_visible()
    await expect(page.locator(".events")).to_contain_text("Succeeded")
    await expect(page.locator(".events")).to_contain_text("Sampling")


async def finished(world: World) -> str:
    """A job that succeeded; the first that asks makes it."""
    found = world.gateway.get("/v1/jobs?status=succeeded&limit=1&metadata.name=a%20dance")
    if found["jobs"]:
        return str(found["jobs"][0]["id"])
    job = await asyncio.to_thread(
        world.gateway.submit, request={"frames": 33}, metadata={"name": "a dance"}
    )
    await asyncio.to_thread(world.gateway.until, job["id"], "succeeded")
    return str(job["id"])


async def test_the_two_videos_run_in_step(page: Page, world: World) -> None:
    job_id = await finished(world)
    await page.goto(f"{world.gateway.url}/#/job/{job_id}")
    videos, times = "[...document.querySelectorAll('video')]", "times()"
    await page.wait_for_function(f"() => {videos}.length == 2")
    await page.evaluate(f"window.times = () => {videos}.map(video => video.currentTime)")
    await page.evaluate(f"{videos}[1].loop = true")  # two seconds: it must not end meanwhile
    await page.get_by_role("button", name="Play", exact=True).click()
    await page.wait_for_function(f"() => {times}.every(at => at > 0.2)")
    await page.evaluate(
        f"{videos}[0].currentTime = 4.5"
    )  # the dance goes elsewhere, and comes back
    await page.wait_for_function(
        f"() => {{ const [dance, result] = {times};"
        " return result > 0.2 && Math.abs(dance - result) < 0.25; }"
    )
    await page.get_by_role("button", name="Pause").click()
    await page.get_by_label("Position").fill("1.0")
    await page.wait_for_function(f"() => {times}.every(at => Math.abs(at - 1.0) < 0.05)")
    await page.get_by_role("button", name="One frame on").click()
    await page.wait_for_function(f"() => {times}.every(at => Math.abs(at - 1.0625) < 0.05)")
    await shoot(page, "job-succeeded")


async def test_a_video_that_stalls_is_waited_for_and_one_that_ran_on_is_brought_back(
    page: Page, world: World
) -> None:
    job_id = await finished(world)
    await page.goto(f"{world.gateway.url}/#/job/{job_id}")
    await page.evaluate(
        "import('/js/parts/player.js').then(() => {"
        " window.clips = () => [...document.querySelectorAll('video')];"
        " window.apart = () => Math.abs(clips()[0].currentTime - clips()[1].currentTime); })"
    )
    await page.wait_for_function("() => clips().length == 2 && clips().every(v => v.readyState)")
    await page.get_by_role("button", name="Play", exact=True).click()
    await page.wait_for_function("() => clips().every(v => v.currentTime > 0.1)")
    # As when the network gives no more of the dance: its picture stands, the player plays on.
    stall = """() => {
        const dance = clips()[0];
        Object.defineProperty(dance, "readyState", {value: 2, configurable: true});
        dance.pause();
        dance.dispatchEvent(new Event("waiting"));
    }"""
    await page.evaluate(stall)
    await page.wait_for_function("() => clips()[1].paused")
    await expect(page.get_by_role("button", name="Pause")).to_be_visible()
    await page.evaluate("clips()[0].currentTime += 0.15; delete clips()[0].readyState")
    await page.wait_for_function(
        "() => clips().every(v => !v.paused) && clips()[0].playbackRate != 1"
    )
    await page.wait_for_function("() => apart() < 0.05")


async def test_a_job_shows_settings_files_attempts_and_memory_over_the_run(
    page: Page, world: World, tmp_path: Path
) -> None:
    job_id = await finished(world)
    await page.goto(f"{world.gateway.url}/#/job/{job_id}")
    await expect(
        page.get_by_role("img", name=re.compile("memory during attempt 1"))
    ).to_be_visible()
    await expect(page.get_by_role("img", name="The photo")).to_be_visible()
    await expect(page.get_by_text("As by default")).to_be_visible()
    await expect(page.get_by_role("link", name="graph")).to_be_visible()
    async with page.expect_download() as download:
        await page.get_by_role("link", name="Download").click()
    saved = tmp_path / "video.mp4"
    await (await download.value).save_as(saved)
    assert saved.read_bytes()[4:8] == b"ftyp"


async def test_rerun_with_changes_sends_only_what_differs(page: Page, world: World) -> None:
    job_id = await finished(world)
    await page.goto(f"{world.gateway.url}/#/job/{job_id}")
    await page.get_by_role("link", name="Rerun with changes").click()
    await expect(page.get_by_role("heading", level=1, name="Rerun with changes")).to_be_visible()
    await page.get_by_label("Prompt", exact=True).fill("another prompt")
    async with page.expect_request("**/rerun") as sent:
        await page.get_by_role("button", name="Run again").click()
    assert (await sent.value).post_data_json == {"overrides": {"prompt": "another prompt"}}
    await expect(page.get_by_role("link", name="Rerun with changes")).to_be_visible()
    again = page.url.rpartition("/")[2]
    assert again != job_id
    assert world.gateway.call("POST", f"/v1/jobs/{again}/cancel") == 200


async def test_a_running_job_is_canceled_and_deleted(page: Page, world: World) -> None:
    world.engine.misbehave("hang", at_step=2, times=1)
    job = await asyncio.to_thread(world.gateway.submit, metadata={"name": "too long"})
    await page.goto(f"{world.gateway.url}/#/job/{job['id']}")
    await expect(page.locator(".going-line")).to_contain_text("step 1")
    await page.get_by_role("button", name="Cancel", exact=True).click()
    await page.get_by_role("button", name="Cancel it?").click()
    await expect(page.get_by_text("the job was canceled")).to_be_visible()
    await page.get_by_role("button", name="Delete", exact=True).click()
    await page.get_by_role("button", name="Delete it for good?").click()
    await expect(page.get_by_role("heading", level=1, name="Jobs")).to_be_visible()
    assert world.gateway.call("GET", f"/v1/jobs/{job['id']}") == 404


async def test_a_failed_job_says_why_and_what_to_do(page: Page, world: World) -> None:
    world.engine.misbehave("raise", times=1)
    job = await asyncio.to_thread(world.gateway.submit, metadata={"name": "unlucky"})
    await asyncio.to_thread(world.gateway.until, job["id"], "failed")
    await page.goto(f"{world.gateway.url}/#/job/{job['id']}")
    error = page.get_by_role("alert", name="Error")
    await expect(error).to_contain_text("What to do:")
    await expect(error).to_contain_text("in node")
    await shoot(page, "job-failed")


async def test_now_shows_memory_and_says_what_the_next_job_waits_for(
    page: Page, world: World
) -> None:
    world.gateway.others.write_text("16200")
    try:
        job = await asyncio.to_thread(world.gateway.submit, metadata={"name": "waits for memory"})
        await opened(page, world.gateway, "", "Now")
        await expect(page.locator(".admission")).to_contain_text("waits for memory")
        await expect(page.locator(".admission")).to_contain_text("waiting for memory")
        await expect(page.locator(".memory-need.short")).to_be_visible()
        await expect(page.locator(".legend").first).to_contain_text("15.8 GiB")
        await page.locator(".chart canvas").wait_for()
        await shoot(page, "now-waiting")
        await page.goto(f"{world.gateway.url}/#/job/{job['id']}")
        await expect(page.locator(".going")).to_contain_text("waiting for memory")
    finally:
        world.gateway.others.write_text("3000")
    await asyncio.to_thread(world.gateway.until, job["id"], "succeeded")
    # What ComfyUI took meanwhile is its own, not somebody else's.
    await opened(page, world.gateway, "", "Now")
    await expect(page.locator(".legend").first).to_contain_text(
        re.compile(r"ComfyUI\s*7\.2 GiB\s*Others\s*2\.9 GiB")
    )
    await shoot(page, "now")


async def test_wrong_values_are_told_at_their_fields(page: Page, world: World) -> None:
    await opened(page, world.gateway, "#/new", "New job")
    await page.get_by_role("button", name="Send").click()
    await expect(page.locator("#field-reference_image-fault")).to_have_text("Choose a file.")
    await expect(page.locator("#field-prompt-fault")).to_have_text("This is needed.")
    await page.get_by_label("Frames").fill("500")
    await expect(page.locator("#field-frames-fault")).to_contain_text("frames is 500")
    await page.set_input_files("#field-reference_image", SAMPLES / "dance.mp4")
    await expect(page.locator("#field-reference_image-fault")).to_contain_text("This is a video")


async def test_an_upload_shows_how_much_has_gone_and_can_be_stopped(
    page: Page, world: World
) -> None:
    await opened(page, world.gateway, "#/new", "New job")
    wire = await page.context.new_cdp_session(page)
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1}
    await wire.send("Network.emulateNetworkConditions", {**slow, "uploadThroughput": 20_000})
    await page.set_input_files("#field-driving_video", SAMPLES / "dance.mp4")
    bar = page.get_by_role("progressbar", name="Upload")
    await page.wait_for_function(
        "bar => 0 < bar.ariaValueNow && bar.ariaValueNow < 100", arg=await bar.element_handle()
    )
    await expect(page.locator(".sending")).to_contain_text(re.compile(r"\d+ % of 202 kB"))
    await shoot(page, "new-job-sending")
    await page.get_by_role("button", name="Stop").click()
    await expect(page.get_by_text("Drop a video here")).to_be_visible()
    await wire.send("Network.emulateNetworkConditions", {**slow, "uploadThroughput": -1})
    await page.set_input_files("#field-driving_video", SAMPLES / "dance.mp4")
    await expect(page.get_by_text(re.compile("480 . 832 · 144 frames"))).to_be_visible()


async def test_files_are_dropped_and_a_broken_one_is_refused_in_words(
    page: Page, world: World
) -> None:
    await opened(page, world.gateway, "#/new", "New job")
    drop = """([zone, text]) => {
        const files = new DataTransfer();
        files.items.add(new File([text], "photo.jpg", {type: "image/jpeg"}));
        zone.dispatchEvent(new DragEvent("drop", {dataTransfer: files, bubbles: true}));
    }"""
    zone = await page.locator(".drop").first.element_handle()
    await page.evaluate(drop, [zone, "no picture at all"])
    await expect(page.locator("#field-reference_image-fault")).not_to_be_empty()


async def test_the_engine_view_drains_and_resumes(page: Page, world: World) -> None:
    await finished(world)
    await opened(page, world.gateway, "#/engine", "Engine")
    await expect(page.get_by_text("can run").first).to_be_visible()
    await shoot(page, "engine")
    await page.get_by_role("button", name="Drain").click()
    await page.get_by_role("button", name="Start nothing new?").click()
    await expect(page.get_by_role("button", name="Resume")).to_be_visible()
    assert world.gateway.get("/v1/system")["draining"] is True
    await page.get_by_role("button", name="Resume").click()
    await expect(page.get_by_role("button", name="Drain")).to_be_visible()
    assert world.gateway.get("/v1/system")["draining"] is False


async def test_the_list_shows_posters_and_finds_by_label_and_id(page: Page, world: World) -> None:
    job_id = await finished(world)
    await opened(page, world.gateway, "#/jobs", "Jobs")
    await expect(page.locator(".col-poster img").first).to_be_visible()
    await shoot(page, "jobs")
    search = page.get_by_role("searchbox", name="Search")
    await search.fill(job_id)
    await search.press("Enter")
    await expect(page.locator(".jobs tbody tr")).to_have_count(1)
    await search.fill("name=nobody has this")
    await search.press("Enter")
    await expect(page.get_by_text("No job matches.")).to_be_visible()
