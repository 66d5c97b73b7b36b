"""Following a job's events over connections that break: what is known between two lines."""

from __future__ import annotations

import base64
import json
from collections.abc import Generator

from pydantic import ValidationError

from app import wire
from app.client.calls import Call, Preview, Reply, Retry, problem_of
from app.client.errors import GatewayProblem, GatewayUnreachable
from app.client.operations import job_path

_SILENCE_SECONDS = 45.0
"""The gateway says something every 15 seconds; after three times that, the connection is dead."""

_LAST = frozenset({"job.succeeded", "job.failed", "job.canceled"})


class Following:
    """A job's events from one on, each exactly once, over as many connections as it takes.

    Args:
        url: Base URL of the gateway.
        job_id: The job.
        retry: How long to go on without an answer. Whatever arrives starts the count again.
        last_event_id: The last event that the caller has seen; 0 begins with the first.
    """

    def __init__(self, url: str, job_id: str, *, retry: Retry, last_event_id: int = 0) -> None:
        self.ended = False
        self._url = url
        self._job_id = job_id
        self._retry = retry
        self._seen = last_event_id
        self._pauses: Generator[float, float, None] | None = None
        self._name = ""
        self._data: list[str] = []

    def call(self) -> Call:
        """The call that goes on where the last one stopped."""
        self._name, self._data = "", []
        headers = {"Accept": "text/event-stream"}
        if self._seen:
            headers["Last-Event-ID"] = str(self._seen)
        return Call(
            method="GET",
            path=f"{job_path(self._job_id)}/events",
            headers=headers,
            seconds=_SILENCE_SECONDS,
        )

    def opened(self, reply: Reply) -> None:
        """Look at the answer's head.

        Raises:
            GatewayProblem: The gateway refuses, for good or for now.
        """
        if reply.status == 204:
            self.ended = True
        elif reply.status >= 400:
            raise problem_of(reply)

    def feed(self, line: str) -> wire.Event | Preview | None:
        """Take one line; give what it completes."""
        self._pauses = None
        if not line:
            found = self._complete()
            self._name, self._data = "", []
            return found
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        return None

    def pause(self, failure: GatewayProblem | GatewayUnreachable | None) -> float:
        """Seconds until the next connection.

        Args:
            failure: Why the last one ended; None if the gateway closed it, as it does when it
                stops.

        Raises:
            GatewayProblem: The gateway refuses for good.
            GatewayUnreachable: Nothing was heard for as long as `retry` allows.
        """
        asked = 0.0
        if isinstance(failure, GatewayProblem):
            if failure.status not in {429, 502, 503, 504}:
                raise failure
            asked = failure.retry_after or 0.0
        if self._pauses is None:
            self._pauses = self._retry.pauses()
            next(self._pauses)
        try:
            return self._pauses.send(asked)
        except StopIteration:
            lost = GatewayUnreachable(self._url, "its event streams end early")
            raise failure or lost from None

    def _complete(self) -> wire.Event | Preview | None:
        if not self._data:
            return None
        text = "\n".join(self._data)
        if self._name == "preview":
            data = json.loads(text)
            picture = base64.b64decode(data["base64"])
            return Preview(data["job_id"], data["number"], data["media_type"], picture)
        try:
            event = wire.Event.model_validate_json(text)
        except ValidationError:
            return None  # of a newer gateway: what is not known is passed over
        if event.id <= self._seen:
            return None
        self._seen = event.id
        self.ended = event.type in _LAST
        return event
