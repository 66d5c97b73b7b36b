"""The client for asyncio programs: the same calls, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, closing
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import httpx
from pydantic import JsonValue

from app import wire
from app.client import operations
from app.client.calls import Call, OnBytes, Pause, Preview, Reply, Retry, Run, Script
from app.client.downloading import download
from app.client.errors import GatewayProblem, GatewayUnreachable
from app.client.following import Following
from app.client.operations import FilePath
from app.client.transport import (
    DEFAULT_URL,
    failures_named,
    head_of,
    reply_of,
    request_of,
    settings_of,
)

T = TypeVar("T")


class AsyncGatewayClient:
    """Talks to a gateway from asyncio. What each call does stands at `GatewayClient`.

    Files are read and written on the event loop, in pieces of at most 64 KiB.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        key: str | None = None,
        retry: Retry | None = None,
    ) -> None:
        """Make a client. See `GatewayClient`."""
        self.url = url.rstrip("/")
        self._retry = retry or Retry()
        self._http = httpx.AsyncClient(**settings_of(url, key))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    # --- jobs ------------------------------------------------------------------------------------

    async def submit(
        self,
        job: wire.JobRequest,
        *,
        files: Mapping[str, FilePath] | None = None,
        idempotency_key: str | None = None,
        on_bytes: OnBytes | None = None,
    ) -> wire.Job:
        """Submit a job. See `GatewayClient.submit`."""
        return await self._run(
            operations.submit(
                job,
                self._retry,
                files=files or {},
                idempotency_key=idempotency_key,
                on_bytes=on_bytes,
            )
        )

    async def upload(self, path: FilePath, *, on_bytes: OnBytes | None = None) -> wire.Upload:
        """Upload a media file. See `GatewayClient.upload`."""
        return await self._run(operations.upload(path, self._retry, on_bytes=on_bytes))

    async def get(self, job_id: str) -> wire.Job:
        """Look at a job."""
        return await self._run(operations.get(job_id, self._retry))

    async def wait(self, job_id: str, *, seconds: float | None = None) -> wire.Job:
        """Wait until a job has ended. See `GatewayClient.wait`."""
        return await self._run(operations.wait(job_id, self._retry, seconds=seconds))

    async def list(
        self,
        *,
        status: Sequence[wire.JobStatus] = (),
        workflow: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        metadata: Mapping[str, str] | None = None,
        order: Literal["newest", "queue"] = "newest",
        page_size: int = 50,
    ) -> AsyncGenerator[wire.Job]:
        """Jobs. See `GatewayClient.list`."""
        filters = operations.filters_of(
            status=status,
            workflow=workflow,
            created_after=created_after,
            created_before=created_before,
            metadata=metadata or {},
            order=order,
            page_size=page_size,
        )
        cursor: str | None = None
        while True:
            page = await self._run(operations.page(self._retry, filters, cursor))
            for job in page.jobs:
                yield job
            cursor = page.next_cursor
            if cursor is None:
                return

    async def cancel(self, job_id: str) -> wire.Job:
        """Cancel a job. See `GatewayClient.cancel`."""
        return await self._run(operations.cancel(job_id, self._retry))

    async def rerun(
        self,
        job_id: str,
        *,
        overrides: Mapping[str, JsonValue] | None = None,
        idempotency_key: str | None = None,
    ) -> wire.Job:
        """Make a new job from an earlier one. See `GatewayClient.rerun`."""
        return await self._run(
            operations.rerun(
                job_id, self._retry, overrides=overrides or {}, idempotency_key=idempotency_key
            )
        )

    async def delete(self, job_id: str) -> None:
        """Delete a job that has ended, with its artifacts."""
        await self._run(operations.delete(job_id, self._retry))

    async def events(
        self, job_id: str, *, last_event_id: int = 0
    ) -> AsyncGenerator[wire.Event | Preview]:
        """A job's events until it has ended. See `GatewayClient.events`."""
        following = Following(self.url, job_id, retry=self._retry, last_event_id=last_event_id)
        while not following.ended:
            failure: GatewayProblem | GatewayUnreachable | None = None
            try:
                async with aclosing(self._lines(following)) as lines:
                    async for line in lines:
                        if (found := following.feed(line)) is not None:
                            yield found
            except (GatewayProblem, GatewayUnreachable) as error:
                failure = error
            if not following.ended:
                await asyncio.sleep(following.pause(failure))

    async def download(
        self,
        job_id: str,
        target: FilePath,
        *,
        artifact: str = "video",
        on_bytes: OnBytes | None = None,
    ) -> wire.Artifact:
        """Fetch an artifact to a file. See `GatewayClient.download`."""
        return await self._run(
            download(job_id, target, self._retry, artifact=artifact, on_bytes=on_bytes)
        )

    async def document(self, job_id: str, name: str) -> dict[str, Any]:
        """An artifact that is JSON. See `GatewayClient.document`."""
        return await self._run(operations.document(job_id, name, self._retry))

    # --- the gateway -----------------------------------------------------------------------------

    async def workflows(self) -> tuple[wire.WorkflowView, ...]:
        """What can be asked for, and whether it can run now."""
        return await self._run(operations.workflows(self._retry))

    async def workflow(self, name: str) -> wire.WorkflowView:
        """One workflow."""
        return await self._run(operations.workflow(name, self._retry))

    async def estimate(
        self, request: Mapping[str, JsonValue], *, workflow: str = "steadydancer"
    ) -> wire.Estimate:
        """What a request would take. Nothing is stored."""
        return await self._run(operations.estimate(workflow, request, self._retry))

    async def system(self) -> wire.System:
        """The card, the engines, the queue and the store."""
        return await self._run(operations.system(self._retry))

    async def drain(self) -> wire.System:
        """Start no more jobs."""
        return await self._run(operations.set_draining(self._retry, draining=True))

    async def resume(self) -> wire.System:
        """Start jobs again."""
        return await self._run(operations.set_draining(self._retry, draining=False))

    async def ready(self) -> wire.Readiness:
        """Whether the gateway could run a job now. Asked once, without trying again."""
        return await self._run(operations.ready())

    # --- sending ---------------------------------------------------------------------------------

    async def _run(self, script: Script[T]) -> T:
        with closing(Run(script)) as run:
            while (step := run.step) is not None:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    run.go_on()
                    continue
                try:
                    reply = await self._send(step)
                except GatewayUnreachable as error:
                    run.fail(error)
                else:
                    run.go_on(reply)
            return run.result

    async def _send(self, call: Call) -> Reply:
        async with AsyncExitStack() as stack:
            stack.enter_context(failures_named(self.url))
            arguments = stack.enter_context(request_of(call))
            answer = await stack.enter_async_context(self._http.stream(**arguments))
            if call.sink is None or not answer.is_success:
                await answer.aread()
                return reply_of(answer)
            head = head_of(answer)
            call.sink.begin(head)
            async for piece in answer.aiter_raw():
                call.sink.write(piece)
            return head

    async def _lines(self, following: Following) -> AsyncGenerator[str]:
        async with AsyncExitStack() as stack:
            stack.enter_context(failures_named(self.url))
            arguments = stack.enter_context(request_of(following.call()))
            answer = await stack.enter_async_context(self._http.stream(**arguments))
            if answer.status_code != 200:
                await answer.aread()
            following.opened(head_of(answer) if answer.status_code == 200 else reply_of(answer))
            async for line in answer.aiter_lines():
                yield line
