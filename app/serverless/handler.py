"""Between RunPod's SDK and the worker: two loops, one handler.

The SDK runs its own event loop, and another one for its checks before that; the gateway needs one
from start to end. So it has a thread of its own, and ComfyUI starts before the first job is there.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from app.errors import Misconfigured
from app.serverless.worker import Run, Worker
from app.settings import Settings
from app.telemetry import configure_logging

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
Tell = Callable[[dict[str, Any], dict[str, Any]], None]

_TOLD_SECONDS = 5.0
"""Longest wait for progress that is still on its way when a job has ended."""


def start(settings: Settings) -> None:
    """Serve RunPod until the worker is told to end. The SDK reads its own flags (`--rp_...`).

    Raises:
        Misconfigured: The SDK is not installed, or the settings cannot be used.
        CardUnreadable: Admission asks NVML, and there is no card to read.
    """
    # The SDK's own default is DEBUG, which prints every answer whole, prompt and video included.
    os.environ.setdefault("RUNPOD_LOG_LEVEL", "INFO")
    try:
        import runpod.serverless  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise Misconfigured(
            "RunPod's SDK is not installed: install steadydancer-gateway[serverless]."
        ) from error
    configure_logging(log_format=settings.log_format, level=settings.log_level)
    # Until the SDK sets its own, and for its local server, whose end is this signal sent again.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    worker = Worker(settings, on_crash=_stop_process)
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(worker.running()),
    ):
        # Off RunPod, as behind the SDK's local server, nobody is there to be told.
        is_heard = "RUNPOD_WEBHOOK_POST_OUTPUT" in os.environ
        tell = runpod.serverless.progress_update if is_heard else _tell_nobody
        runpod.serverless.start(
            {
                "handler": make_handler(portal, worker, tell),
                "concurrency_modifier": lambda _now: worker.engines,
            }
        )


def make_handler(portal: BlockingPortal, worker: Worker, progress_update: Tell) -> Handler:
    """The function that the SDK calls for each job, on the SDK's loop.

    Args:
        portal: The loop on which the worker runs.
        worker: The worker.
        progress_update: The SDK's; gets the job and what is to be told.
    """

    async def handle(job: dict[str, Any]) -> dict[str, Any]:
        run = Run(tell=partial(progress_update, job))
        ended: asyncio.Future[dict[str, Any]] = asyncio.wrap_future(
            portal.start_task_soon(worker.run, job.get("input"), run)
        )
        try:
            answer = await asyncio.shield(ended)
        except asyncio.CancelledError:
            # RunPod canceled the job or its time is over. The next job must find ComfyUI free.
            portal.start_task_soon(worker.cancel, run)
            await asyncio.shield(ended)
            raise
        await asyncio.to_thread(_wait_for_told)
        return answer

    return handle


def _wait_for_told() -> None:
    """Let the SDK's threads end that still send progress.

    It starts one for each update and waits for none. An update that arrives after the result
    leaves the job IN_PROGRESS for ever (github.com/runpod/runpod-python/issues/250).
    """
    until = time.monotonic() + _TOLD_SECONDS
    for thread in threading.enumerate():
        if thread.name.endswith("(_thread_target)"):
            thread.join(max(0.0, until - time.monotonic()))


def _tell_nobody(_job: dict[str, Any], _news: dict[str, Any]) -> None:
    """Drop what is told."""


def _stop_process() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
