"""One gateway of its own for a worker: opened once, every request a job of it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import structlog
from pydantic import Field, JsonValue, StringConstraints, ValidationError
from sqlmodel import Session, col, select

from app import wire
from app.access.scopes import LOCAL
from app.api.problems import invalid
from app.errors import (
    Conflict,
    EngineUnavailable,
    FieldError,
    GatewayError,
    InvalidRequest,
    Misconfigured,
    NotFound,
    PayloadTooLarge,
)
from app.gateway import Gateway
from app.jobs import queue, views
from app.jobs.feed import Watcher
from app.jobs.states import OPEN
from app.jobs.tables import Job
from app.media.tables import Artifact
from app.serverless import answers
from app.settings import Settings

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0
"""Longest time between two looks at a job; progress is told no more often."""


class Input(wire.Asked):
    """What RunPod calls `input`: the part of a submission that means something here."""

    workflow: Annotated[str, StringConstraints(max_length=64)] = "steadydancer"
    request: dict[str, JsonValue]
    max_run_seconds: Annotated[float, Field(gt=0, le=86_400)] | None = None


@dataclass(eq=False, slots=True)
class Run:
    """One request while it is worked on.

    Attributes:
        tell: Told of progress; must not block.
        canceled: Whether RunPod gave it up.
        job_id: The gateway's job, once there is one.
    """

    tell: Callable[[dict[str, Any]], None]
    canceled: bool = False
    job_id: str | None = None


def settings_of_worker(settings: Settings) -> Settings:
    """The same settings for a gateway that nobody reaches over the network.

    Nor does it send jobs to an endpoint: it is one.
    """
    changed = {
        "host": "127.0.0.1",
        "make_first_key": False,
        "proxy_command": (),
        "serverless_url": None,
    }
    return settings.model_copy(update=changed)


class Worker:
    """Runs requests of RunPod on an embedded gateway."""

    def __init__(self, settings: Settings, *, on_crash: Callable[[], None]) -> None:
        """Build the gateway; nothing is opened.

        Args:
            settings: What the operator decided.
            on_crash: Called when a loop of the gateway crashed: the worker is of no use then.

        Raises:
            Misconfigured: The object storage cannot be used.
        """
        self.gateway = Gateway(settings_of_worker(settings), on_crash=self._crash)
        self._settings = settings
        self._on_crash = on_crash
        self._crashed = False
        self._faulted = False
        self._videos = None
        if settings.serverless_store is not None:
            try:
                from app.serverless.storage import VideoStore  # noqa: PLC0415 - an extra
            except ImportError as error:
                raise Misconfigured(
                    "GATEWAY_SERVERLESS_STORE needs the package obstore: install "
                    "steadydancer-gateway[objects]."
                ) from error
            self._videos = VideoStore(
                settings.serverless_store, link_seconds=settings.serverless_link_seconds
            )

    @property
    def engines(self) -> int:
        """How many jobs can run at once."""
        return len(self.gateway.stations)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Open the gateway, and cancel what an earlier process left: nobody waits for it."""
        async with self.gateway.running():
            await self._cancel_leftovers()
            yield

    async def run(self, given: object, run: Run) -> dict[str, Any]:
        """Do what a request asks and give the answer. Never raises."""
        spent = False
        try:
            answer = await self._run(given, run)
        except GatewayError as error:
            answer, spent = answers.refused(error), isinstance(error, EngineUnavailable)
        except Exception:
            log.exception("the worker failed")
            answer = answers.refused(GatewayError("The worker failed; its log has the details."))
        if spent or self._crashed or self._faulted:
            # RunPod then gives the next job to a fresh worker.
            answer["refresh_worker"] = True
        return answer

    async def cancel(self, run: Run) -> None:
        """Give a request up; `run` ends once its prompt is out of ComfyUI."""
        run.canceled = True
        if run.job_id is not None:
            await self._cancel(run.job_id)

    # --- one request -----------------------------------------------------------------------------

    async def _run(self, given: object, run: Run) -> dict[str, Any]:
        asked = _read(given)
        submission = self.gateway.submission
        submission.check(asked, attached=())
        await self._engine(run)
        submitted = await submission.submit(asked, caller=LOCAL)
        run.job_id = submitted.job_id
        if run.canceled:
            await self._cancel(submitted.job_id)
        with self.gateway.feed.watch(submitted.job_id) as watcher:
            job = await self._ended(submitted.job_id, run, watcher)
        if job.error is not None:
            self._faulted |= job.error.type == "cuda-fault"
            return answers.failed(job.error)
        if job.status != "succeeded":
            raise _canceled()
        return await self._answer(job)

    async def _engine(self, run: Run) -> None:
        """Wait for an engine: a fresh worker's starts with it, and only then knows its nodes."""
        loop = asyncio.get_running_loop()
        seconds = self._settings.engine_start_seconds
        until = loop.time() + seconds
        engines = [station.dispatcher.engine for station in self.gateway.stations]
        while not any(engine.ready for engine in engines):
            self._check_crashed()
            if run.canceled:
                raise _canceled()
            if loop.time() > until:
                states = "; ".join(f"{one.state}: {one.detail}" for one in engines)
                raise EngineUnavailable(f"ComfyUI was not ready within {seconds:g} s ({states}).")
            await engines[0].wait_ready(0.25)

    async def _ended(self, job_id: str, run: Run, watcher: Watcher) -> wire.Job:
        """Wait for a job's end and tell of its progress meanwhile."""
        loop = asyncio.get_running_loop()
        told: dict[str, Any] = {}
        told_at = float("-inf")
        while True:
            self._check_crashed()
            job, _ = await self.gateway.db.read(lambda s: views.view(s, job_id, owner=None))
            if job.status in wire.TERMINAL_STATUSES:
                return job
            news = answers.progress(job)
            if news != told and loop.time() - told_at >= _LOOK_SECONDS:
                run.tell(news)
                told, told_at = news, loop.time()
            await watcher.wait(_LOOK_SECONDS)

    async def _answer(self, job: wire.Job) -> dict[str, Any]:
        video = next(one for one in job.artifacts if one.name == "video")
        blob_id = await self.gateway.db.read(lambda session: _video_blob(session, job.id))
        pieces = self.gateway.store.read(blob_id)
        limit = self._settings.serverless_answer_bytes
        if answers.size_inline(job, video) <= limit:
            data = b"".join([piece async for piece in pieces])
            return answers.succeeded(job, video, base64=base64.b64encode(data).decode())
        if self._videos is not None:
            url = await self._videos.put(f"{job.id}.mp4", pieces)
            return answers.succeeded(job, video, url=url)
        raise PayloadTooLarge(
            f"The video is made, and with its {video.bytes:,} bytes too large for an answer of "
            f"{limit:,}. Set GATEWAY_SERVERLESS_STORE (such as s3://bucket/folder, with the "
            "AWS_* variables) on the endpoint, or ask for a smaller video."
        )

    async def _cancel(self, job_id: str) -> None:
        gateway = self.gateway
        await gateway.db.write(lambda session: queue.cancel(session, job_id, now=gateway.now()))
        for station in gateway.stations:
            station.dispatcher.cancel(job_id)
        gateway.feed.publish(job_id)

    # --- the worker itself -----------------------------------------------------------------------

    async def _cancel_leftovers(self) -> None:
        left = await self.gateway.db.read(_open_jobs)
        for job_id in left:
            log.warning("a job of an earlier process is canceled", job_id=job_id)
            await self._cancel(job_id)

    def _crash(self) -> None:
        self._crashed = True
        self._on_crash()

    def _check_crashed(self) -> None:
        if self._crashed:
            raise GatewayError("The worker's gateway crashed; its log has the details.")


def _read(given: object) -> wire.JobRequest:
    """The request in RunPod's `input`.

    Raises:
        InvalidRequest: It breaks a rule.
    """
    if not isinstance(given, Mapping):
        raise InvalidRequest(
            "input must be a JSON object.", errors=[FieldError("", "It must be a JSON object.")]
        )
    try:
        asked = Input.model_validate(given)
    except ValidationError as error:
        raise invalid(error, Input) from None
    return wire.JobRequest(
        workflow=asked.workflow, request=asked.request, max_run_seconds=asked.max_run_seconds
    )


def _canceled() -> Conflict:
    return Conflict("The job was canceled.")


def _open_jobs(session: Session) -> list[str]:
    return list(session.exec(select(Job.id).where(col(Job.status).in_(sorted(OPEN)))).all())


def _video_blob(session: Session, job_id: str) -> int:
    found = session.exec(
        select(Artifact.blob_id).where(
            col(Artifact.job_id) == job_id, col(Artifact.name) == "video"
        )
    ).first()
    if found is None:
        raise NotFound("The video is gone.")
    return found
