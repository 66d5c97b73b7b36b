"""The demo itself: two servers, one job, one checked mp4."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from app import wire
from app.cli.children import Child
from app.cli.live import follow, screen
from app.cli.output import ExitCode, Stop, note_failure, outcome, say, size
from app.cli.serving import read_settings
from app.client import GatewayClient
from app.media.limits import MediaLimits
from app.media.probe import probe
from app.media.sandbox import Sandbox
from app.workflows.registry import load_workflows, standin_models

_COMFYUI_VERSION = "0.28.1"
_START_SECONDS = 60.0
_STEP_SECONDS = 1.2
"""Long enough to see each step go by: progress is told once a second."""


class Showcase:
    """One run of the demo.

    Args:
        directory: Where the servers keep their files.
        photo: The reference image.
        dance: The driving video.
        target: The mp4 to be written.
    """

    def __init__(self, *, directory: Path, photo: Path, dance: Path, target: Path) -> None:
        self._directory = directory
        self._photo = photo
        self._dance = dance
        self._target = target
        self._environ = {
            name: value
            for name, value in os.environ.items()
            # The demo is a world of its own: an operator's settings would reach into it.
            if not name.startswith("GATEWAY_")
        }

    def run(self, request: Mapping[str, Any]) -> ExitCode:
        """Run it; the answer says whether the mp4 is what was asked for."""
        self._directory.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.enter_context(_interruptible())
            engine = stack.enter_context(self._engine())
            engine_url = engine.announced(seconds=_START_SECONDS)
            say(f"Stand-in ComfyUI {_COMFYUI_VERSION}  {engine_url}")
            gateway = stack.enter_context(self._gateway(engine_url))
            url = gateway.announced(seconds=_START_SECONDS)
            say(f"Gateway                  {url}")
            say("Admission is off (GATEWAY_ADMISSION=off): there is no GPU to ask for room.")
            client = stack.enter_context(GatewayClient(url))
            self._wait_until_ready(client, (engine, gateway))
            code = self._show(client, request)
            self._point_out(url)
            if sys.stdin.isatty():
                self._stay((engine, gateway))
            return code

    # --- servers ---------------------------------------------------------------------------------

    def _engine(self) -> Child:
        workflows = load_workflows(read_settings().workflows_dir)
        models = self._directory / "models.json"
        models.write_text(json.dumps(standin_models(workflows), indent=2), encoding="utf-8")
        return Child(
            name="The stand-in ComfyUI",
            arguments=[
                *("-m", "app.standin", "--port", "0", "--version", _COMFYUI_VERSION),
                *("--directory", str(self._directory / "comfyui"), "--models-from", str(models)),
                *("--step-seconds", str(_STEP_SECONDS)),
            ],
            log=self._directory / "stand-in.log",
            environ=self._environ,
        )

    def _gateway(self, engine_url: str) -> Child:
        return Child(
            name="The gateway",
            arguments=["-m", "app.cli", "serve", "--port", "0", "--announce"],
            log=self._directory / "gateway.log",
            environ={
                **self._environ,
                "GATEWAY_DATA_DIR": str(self._directory / "gateway"),
                "GATEWAY_COMFYUI_URLS": engine_url,
                "GATEWAY_ADMISSION": "off",
            },
        )

    @staticmethod
    def _wait_until_ready(client: GatewayClient, servers: tuple[Child, ...]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            state = client.ready()
            if state.ready:
                return
            wrong = [check for check in state.checks if not check.ok]
            if time.monotonic() > deadline or not all(server.alive for server in servers):
                lines = [f"  {check.name}: {check.detail}" for check in wrong]
                raise Stop("\n".join(["The gateway is not ready.", *lines]), ExitCode.UNREACHABLE)
            time.sleep(0.05)

    # --- the job ---------------------------------------------------------------------------------

    def _show(self, client: GatewayClient, request: Mapping[str, Any]) -> ExitCode:
        say()
        say(f"Photo {self._photo}, dance {self._dance}")
        asked = wire.JobRequest(request=dict(request), metadata={"name": "demo"})
        files = {"reference_image": self._photo, "driving_video": self._dance}
        with screen() as shown:
            job = client.submit(asked, files=files, on_bytes=shown.sent)
            job = follow(client, job, shown)
            if job.status == "succeeded":
                video = client.download(job.id, self._target, on_bytes=shown.received)
        for warning in job.warnings:
            say(f"Note: {warning}")
        if job.status != "succeeded":
            note_failure(job)
            return outcome(job)
        return self._check(job, video)

    def _check(self, job: wire.Job, video: wire.Artifact) -> ExitCode:
        """Hold the file against the request; its SHA-256 was checked while it was loaded."""
        facts = asyncio.run(_probed(self._target))
        wanted = job.request
        faults = [
            f"{name} is {found:g} and must be {wanted[name]}"
            for name, found in (
                ("width", facts.width),
                ("height", facts.height),
                ("frames", facts.frames),
                ("fps", facts.fps or 0.0),
            )
            if abs(float(str(wanted[name])) - found) > 0.01
        ]
        if facts.codec != "h264":
            faults.append(f"the codec is {facts.codec} and must be h264")
        say()
        if faults:
            say(f"{self._target} is wrong: {'; '.join(faults)}.")
            return ExitCode.JOB_FAILED
        sound = "with sound" if facts.has_audio else "without sound"
        say(
            f"{self._target}: {facts.width} x {facts.height}, {facts.frames} frames at "
            f"{facts.fps:g} per second, {sound}, {size(video.bytes)}. Every frame decodes, and the "
            "SHA-256 is the gateway's."
        )
        return ExitCode.OK

    # --- afterwards ------------------------------------------------------------------------------

    @staticmethod
    def _point_out(url: str) -> None:
        say()
        say(f"Dashboard  {url}/")
        say(f"API page   {url}/docs")
        say("Your own files:")
        say(f"  curl {url}/v1/jobs \\")
        say('    -F \'job={"request": {"prompt": "a person is dancing"}}\' \\')
        say("    -F reference_image=@me.jpg -F driving_video=@dance.mp4")

    def _stay(self, servers: tuple[Child, ...]) -> None:
        say()
        say("The servers stay up until Ctrl-C.")
        try:
            while all(server.alive for server in servers):
                time.sleep(0.2)
        except KeyboardInterrupt:
            say()
            say(f"Stopped. What they stored is in {self._directory}.")
            return
        ended = next(server for server in servers if not server.alive)
        raise Stop(f"{ended.name} ended.\n{ended.tail()}", ExitCode.UNREACHABLE)


async def _probed(path: Path) -> wire.MediaFacts:
    sandbox = Sandbox(limits=MediaLimits())
    try:
        return await probe(path, sandbox=sandbox, expect="video")
    finally:
        await sandbox.aclose()


@contextmanager
def _interruptible() -> Generator[None]:
    """Have SIGTERM and a closed terminal end the demo as Ctrl-C does, so that nothing is left."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signals = (signal.SIGTERM, signal.SIGHUP)
    before = {one: signal.signal(one, interrupt) for one in signals}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
