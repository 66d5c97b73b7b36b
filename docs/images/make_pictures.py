"""Takes the pictures of the README: `python docs/images/make_pictures.py`.

Starts a stand-in and a gateway with a simulated card, runs some jobs and lets Chromium look. Needs
the dev group and Chromium (`apt-get install chromium`, or its path in CHROMIUM).
"""

# ruff: noqa: INP001
from __future__ import annotations

import io
import os
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from PIL import Image  # noqa: E402
from playwright.sync_api import Page, sync_playwright  # noqa: E402

from app.workflows.registry import load_workflows, standin_models  # noqa: E402
from tests.dashboard.servers import ROOT, Engine, Gateway, running  # noqa: E402

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
COLORS = 96
NAMES = ("stage test", "street, take 2", "kitchen dance", "rooftop at dusk")


def keep(page: Page, name: str) -> None:
    """Write one picture, small enough for a repository."""
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(COLORS, dither=Image.Dither.NONE).save(HERE / f"{name}.png", optimize=True)


def main() -> None:
    """Take all pictures."""
    with tempfile.TemporaryDirectory() as place:
        models = standin_models(load_workflows(ROOT / "workflows"))
        engine = Engine(Path(place) / "engine", models=models, step_seconds=0.5)
        gateway = Gateway(Path(place) / "gateway", engine.url, card=True)
        with running(engine, gateway):
            look(gateway)


def look(gateway: Gateway) -> None:
    """Fill the gateway and walk through its page."""
    request = {"width": 480, "height": 832, "frames": 41, "prompt": "a person is dancing"}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        context = browser.new_context(viewport={"width": 1200, "height": 750})
        now = context.new_page()
        now.emulate_media(color_scheme="dark")
        now.goto(f"{gateway.url}/#/now")
        jobs = [
            gateway.submit(request=request, metadata={"name": name, "user": user})
            for name, user in zip(NAMES, ("ann", "ben", "ann", "eve"), strict=True)
        ]
        gateway.until(jobs[0]["id"], "succeeded", seconds=60)
        page = context.new_page()
        page.goto(f"{gateway.url}/#/jobs")
        page.wait_for_function("() => document.querySelector('.col-poster img')?.naturalWidth > 0")
        keep(page, "jobs")
        page.goto(f"{gateway.url}/#/job/{jobs[0]['id']}")
        page.locator(".events li").first.wait_for()
        drawn = "[...document.querySelectorAll('video')].every(one => one.readyState > 1)"
        page.wait_for_function(f"() => {drawn}")
        page.get_by_label("Position").fill("1.2")
        page.get_by_label("Position").blur()
        there = "[...document.querySelectorAll('video')].every(one => one.currentTime == 1.2)"
        page.wait_for_function(f"() => {there} && {drawn}")
        page.get_by_text("1.20 /").wait_for()
        keep(page, "job")
        for job in jobs[1:]:
            gateway.until(job["id"], "succeeded", seconds=60)
        gateway.others.write_text("16200")
        gateway.submit(request=request, metadata={"name": "waits for the other process"})
        now.bring_to_front()
        now.locator(".memory-need.short").wait_for()
        time.sleep(20)  # so that the chart has something to show
        keep(now, "now-dark")
        browser.close()


if __name__ == "__main__":
    main()
