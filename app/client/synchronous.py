"""The client for programs that wait."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
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


class GatewayClient:
    """Talks to a gateway. Use it as a context manager, or call `close`.

    Every call raises `GatewayProblem` where the gateway refuses it, and `GatewayUnreachable` where
    nobody answers for as long as `retry` says.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        key: str | None = None,
        retry: Retry | None = None,
    ) -> None:
        """Make a client. Nothing is sent yet.

        Args:
            url: Base URL of the gateway.
            key: API key, where the gateway asks for one.
            retry: How long calls are tried again.

        Raises:
            InvalidArgument: The URL is not one of HTTP.
        """
        self.url = url.rstrip("/")
        self._retry = retry or Retry()
        self._http = httpx.Client(**settings_of(url, key))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # --- jobs ------------------------------------------------------------------------------------

    def submit(
        self,
        job: wire.JobRequest,
        *,
        files: Mapping[str, FilePath] | None = None,
        idempotency_key: str | None = None,
        on_bytes: OnBytes | None = None,
    ) -> wire.Job:
        """Submit a job.

        Args:
            job: What to run.
            files: Media field to the file that is sent with it, streamed from disk.
            idempotency_key: Your name for this submission. Without one a random one is used, so
                that a try whose answer was lost can be repeated; give your own to be safe also
                when your program is started again.
            on_bytes: Told how many bytes of how many are sent.
        """
        return self._run(
            operations.submit(
                job,
                self._retry,
                files=files or {},
                idempotency_key=idempotency_key,
                on_bytes=on_bytes,
            )
        )

    def upload(self, path: FilePath, *, on_bytes: OnBytes | None = None) -> wire.Upload:
        """Upload a media file, to be named as `{"upload_id": …}` in requests."""
        return self._run(operations.upload(path, self._retry, on_bytes=on_bytes))

    def get(self, job_id: str) -> wire.Job:
        """Look at a job."""
        return self._run(operations.get(job_id, self._retry))

    def wait(self, job_id: str, *, seconds: float | None = None) -> wire.Job:
        """Wait until a job has ended; it may have failed. No polling: the gateway holds the call.

        Raises:
            WaitTimedOut: It had not ended after so many seconds.
        """
        return self._run(operations.wait(job_id, self._retry, seconds=seconds))

    def list(
        self,
        *,
        status: Sequence[wire.JobStatus] = (),
        workflow: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        metadata: Mapping[str, str] | None = None,
        order: Literal["newest", "queue"] = "newest",
        page_size: int = 50,
    ) -> Iterator[wire.Job]:
        """Jobs, newest first or as they are queued; pages are asked for as they are reached."""
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
            page = self._run(operations.page(self._retry, filters, cursor))
            yield from page.jobs
            cursor = page.next_cursor
            if cursor is None:
                return

    def cancel(self, job_id: str) -> wire.Job:
        """Cancel a job. Of one that has ended, nothing changes."""
        return self._run(operations.cancel(job_id, self._retry))

    def rerun(
        self,
        job_id: str,
        *,
        overrides: Mapping[str, JsonValue] | None = None,
        idempotency_key: str | None = None,
    ) -> wire.Job:
        """Make a new job from an earlier one; null takes a field back to its default."""
        return self._run(
            operations.rerun(
                job_id, self._retry, overrides=overrides or {}, idempotency_key=idempotency_key
            )
        )

    def delete(self, job_id: str) -> None:
        """Delete a job that has ended, with its artifacts."""
        self._run(operations.delete(job_id, self._retry))

    def events(self, job_id: str, *, last_event_id: int = 0) -> Iterator[wire.Event | Preview]:
        """A job's events until it has ended, each once, also over lost connections.

        Args:
            job_id: The job.
            last_event_id: Go on after this event; 0 begins with the first.
        """
        following = Following(self.url, job_id, retry=self._retry, last_event_id=last_event_id)
        while not following.ended:
            failure: GatewayProblem | GatewayUnreachable | None = None
            try:
                for line in self._lines(following):
                    if (found := following.feed(line)) is not None:
                        yield found
            except (GatewayProblem, GatewayUnreachable) as error:
                failure = error
            if not following.ended:
                time.sleep(following.pause(failure))

    def download(
        self,
        job_id: str,
        target: FilePath,
        *,
        artifact: str = "video",
        on_bytes: OnBytes | None = None,
    ) -> wire.Artifact:
        """Fetch an artifact to a file. Goes on where an earlier download stopped.

        The file is in its place only when it is whole and its SHA-256 is right.

        Raises:
            DownloadFailed: The job has no such artifact, or what arrived is not it.
        """
        return self._run(
            download(job_id, target, self._retry, artifact=artifact, on_bytes=on_bytes)
        )

    def document(self, job_id: str, name: str) -> dict[str, Any]:
        """An artifact that is JSON: `graph`, what ComfyUI ran, or `request`, with every default."""
        return self._run(operations.document(job_id, name, self._retry))

    # --- the gateway -----------------------------------------------------------------------------

    def workflows(self) -> tuple[wire.WorkflowView, ...]:
        """What can be asked for, and whether it can run now."""
        return self._run(operations.workflows(self._retry))

    def workflow(self, name: str) -> wire.WorkflowView:
        """One workflow."""
        return self._run(operations.workflow(name, self._retry))

    def estimate(
        self, request: Mapping[str, JsonValue], *, workflow: str = "steadydancer"
    ) -> wire.Estimate:
        """What a request would take. Nothing is stored."""
        return self._run(operations.estimate(workflow, request, self._retry))

    def system(self) -> wire.System:
        """The card, the engines, the queue and the store."""
        return self._run(operations.system(self._retry))

    def drain(self) -> wire.System:
        """Start no more jobs."""
        return self._run(operations.set_draining(self._retry, draining=True))

    def resume(self) -> wire.System:
        """Start jobs again."""
        return self._run(operations.set_draining(self._retry, draining=False))

    def ready(self) -> wire.Readiness:
        """Whether the gateway could run a job now. Asked once, without trying again."""
        return self._run(operations.ready())

    # --- sending ---------------------------------------------------------------------------------

    def _run(self, script: Script[T]) -> T:
        with closing(Run(script)) as run:
            while (step := run.step) is not None:
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    run.go_on()
                    continue
                try:
                    reply = self._send(step)
                except GatewayUnreachable as error:
                    run.fail(error)
                else:
                    run.go_on(reply)
            return run.result

    def _send(self, call: Call) -> Reply:
        with ExitStack() as stack:
            stack.enter_context(failures_named(self.url))
            arguments = stack.enter_context(request_of(call))
            answer = stack.enter_context(self._http.stream(**arguments))
            if call.sink is None or not answer.is_success:
                answer.read()
                return reply_of(answer)
            head = head_of(answer)
            call.sink.begin(head)
            for piece in answer.iter_raw():
                call.sink.write(piece)
            return head

    def _lines(self, following: Following) -> Iterator[str]:
        with ExitStack() as stack:
            stack.enter_context(failures_named(self.url))
            arguments = stack.enter_context(request_of(following.call()))
            answer = stack.enter_context(self._http.stream(**arguments))
            if answer.status_code != 200:
                answer.read()
            following.opened(head_of(answer) if answer.status_code == 200 else reply_of(answer))
            yield from answer.iter_lines()
