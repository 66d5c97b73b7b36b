"""A worker with a stand-in ComfyUI, and the requests that RunPod would bring it."""

from __future__ import annotations

import asyncio
import base64
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from anyio.from_thread import start_blocking_portal
from sqlmodel import Session

from app.database import Database
from app.jobs import queue
from app.serverless.handler import Handler, make_handler
from app.serverless.worker import Worker
from app.settings import Settings
from tests.jobs.test_moves import new_job
from tests.mediakit import image_bytes, make_video
from tests.standin.conftest import Engine, engine_in

PATIENCE = 20.0


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The media fields of a request, inside it."""
    video = make_video(tmp_path_factory.mktemp("dance") / "dance.mp4", frames=24, fps=24)
    files = {"reference_image": image_bytes(), "driving_video": video.read_bytes()}
    return {name: {"base64": base64.b64encode(data).decode()} for name, data in files.items()}


@dataclass
class Bench:
    """A worker that runs, as RunPod's SDK sees it."""

    handler: Handler
    worker: Worker
    engine: Engine
    media: dict[str, Any]
    told: list[dict[str, Any]] = field(default_factory=list)

    def ask(self, **more: Any) -> dict[str, Any]:
        """A job as the SDK brings it, for a smoke run."""
        request = {**self.media, **more.pop("request", {})}
        return {"id": "a-job", "input": {"workflow": "smoke", "request": request, **more}}

    async def jobs(self) -> list[str]:
        """The status of every job of the worker's gateway."""

        def look() -> list[str]:
            statement = "SELECT status FROM job ORDER BY id"
            connection = self.worker.gateway.db.engine.connect()
            with connection:
                return [row[0] for row in connection.exec_driver_sql(statement)]

        return await asyncio.to_thread(look)


async def until(true: Callable[[], bool]) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110 - it is looked at in another thread
            await asyncio.sleep(0.01)


def leave_behind(data: Path) -> None:
    """What a worker that was killed leaves in its store: a queued job, and one that ran."""
    db = Database(f"sqlite:///{data / 'gateway.db'}")
    now = datetime.now(UTC)
    with Session(db.engine) as session, session.begin():
        queue.submit(session, new_job(request={}), now=now)
        ran = queue.submit(session, new_job(request={}), now=now).job_id
        fence = queue.claim(session, ran, engine="engine-0", attempt_id=str(uuid4()), now=now)
        assert fence is not None
        assert queue.submitting(session, fence, graph={}, now=now)
        assert queue.start(session, fence, now=now)
    db.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(
    tmp_path_factory: pytest.TempPathFactory, migrated: Path, media: dict[str, Any]
) -> AsyncIterator[Bench]:
    """A worker on a loop of its own, as the command opens it."""
    directory = tmp_path_factory.mktemp("worker")
    data, comfyui = directory / "data", directory / "comfyui"
    (comfyui / "input").mkdir(parents=True)
    data.mkdir()
    shutil.copy(migrated, data / "gateway.db")
    leave_behind(data)
    async with engine_in(comfyui) as engine:
        settings = Settings(
            data_dir=data,
            admission="off",
            comfyui_urls=(engine.url,),
            quiet_seconds=0.3,
            min_free_bytes=0,
        )
        worker = Worker(settings, on_crash=lambda: None)
        told: list[dict[str, Any]] = []
        with start_blocking_portal("asyncio") as portal:
            context = portal.wrap_async_context_manager(worker.running())
            await asyncio.to_thread(context.__enter__)
            handler = make_handler(portal, worker, lambda _job, news: told.append(news))
            yield Bench(handler, worker, engine, media, told)
            await asyncio.to_thread(context.__exit__, None, None, None)
