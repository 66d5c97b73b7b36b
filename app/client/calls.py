"""Calls and answers as values, and the rules for sending a call again. No I/O here.

An operation is a generator (a `Script`): it yields a `Call` or a `Pause`, gets a `Reply` back, and
returns its result. So everything but the sending itself is written once for both clients.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pydantic import JsonValue, ValidationError

from app.client.errors import GatewayProblem, GatewayUnreachable
from app.wire import Problem

T = TypeVar("T")

OnBytes = Callable[[int, int], None]
"""Told how many bytes of how many have gone through."""


class Sink(Protocol):
    """Where the body of a good answer goes, piece by piece."""

    def begin(self, reply: Reply) -> None:
        """Take the status and headers."""

    def write(self, data: bytes) -> None:
        """Take the next piece."""


@dataclass(frozen=True, slots=True)
class Form:
    """A multipart form: fields first, then files, read from disk as they are sent.

    Attributes:
        fields: Part name to text.
        files: Part name to file.
        on_bytes: Told how much of the files is sent.
    """

    fields: Mapping[str, str]
    files: Mapping[str, Path]
    on_bytes: OnBytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One HTTP request.

    Attributes:
        method: HTTP method.
        path: Path under the base URL.
        params: Query parameters.
        headers: Headers besides the client's own.
        body: JSON to send.
        form: Form to send instead.
        sink: Where the body of a good answer goes; None keeps it in memory.
        seconds: Longest silence of the other side.
    """

    method: str
    path: str
    params: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, JsonValue] | None = None
    form: Form | None = None
    sink: Sink | None = None
    seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer. Header names are lower case; `body` is empty where it went to a sink."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    def json(self) -> Any:  # noqa: ANN401 - whatever was sent
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Preview:
    """A live picture of a running job. Not stored, and sent without an event id."""

    job_id: str
    number: int
    media_type: str
    data: bytes


Script = Generator[Call | Pause, Reply | None, T]


class Run(Generic[T]):
    """A script under way.

    Attributes:
        step: What to do next; None when the script has ended.
        result: What it came to, once it has ended.
    """

    result: T

    def __init__(self, script: Script[T]) -> None:
        self._script = script
        self.step: Call | Pause | None = None
        self._move(lambda: next(script))

    def go_on(self, reply: Reply | None = None) -> None:
        """The step is done; a call's with its answer."""
        self._move(lambda: self._script.send(reply))

    def fail(self, error: GatewayUnreachable) -> None:
        """The call was not answered."""
        self._move(lambda: self._script.throw(error))

    def close(self) -> None:
        """Give the script up, so that it lets go of what it holds."""
        self._script.close()

    def _move(self, move: Callable[[], Call | Pause]) -> None:
        try:
            self.step = move()
        except StopIteration as end:
            self.step = None
            self.result = end.value


@dataclass(frozen=True, slots=True)
class Retry:
    """How long a call is tried again.

    Every call can be sent twice without harm: reads by nature, submissions by their idempotency
    key, uploads because the same content is the same upload.

    Attributes:
        seconds: Time spent waiting between tries, all together; 0 tries once.
        first_seconds: The first pause; each next one is twice as long.
        most_seconds: The longest pause that the client chooses itself.
    """

    seconds: float = 30.0
    first_seconds: float = 0.2
    most_seconds: float = 5.0

    def pauses(self) -> Generator[float, float, None]:
        """Pauses until the time is used up. Send what the gateway asked for, or 0."""
        left, pause = self.seconds, self.first_seconds
        asked = yield 0.0
        while True:
            # Half of it at random, so that many clients do not come back at the same moment.
            wait = asked or pause * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
            if wait > left:
                return
            left -= wait
            pause = min(pause * 2, self.most_seconds)
            asked = yield wait


def send(call: Call) -> Script[Reply]:
    """Send a call once."""
    reply = yield call
    if reply is None:
        raise TypeError("a call was taken for a pause")
    return reply


def perform(call: Call, retry: Retry) -> Script[Reply]:
    """Send a call until it is answered, as long as the rules allow.

    Raises:
        GatewayProblem: It was refused.
        GatewayUnreachable: Nobody answered.
    """
    pauses = retry.pauses()
    next(pauses)
    while True:
        failure: GatewayProblem | GatewayUnreachable
        try:
            reply = yield from send(call)
        except GatewayUnreachable as error:
            failure, asked = error, 0.0
        else:
            if reply.status < 400:
                return reply
            failure = problem_of(reply)
            if not _is_passing(failure):
                raise failure
            asked = failure.retry_after or 0.0
        try:
            pause = pauses.send(asked)
        except StopIteration:
            raise failure from None
        yield Pause(pause)


def _is_passing(failure: GatewayProblem) -> bool:
    """Whether the same call may be answered otherwise in a moment."""
    if failure.code == "idempotency-in-flight":
        return True  # our own first try, of which the answer was lost
    return failure.status in {408, 429, 502, 503, 504}


def problem_of(reply: Reply) -> GatewayProblem:
    """What an answer of 400 and above says; proxies on the way do not speak problem+json."""
    try:
        problem = Problem.model_validate_json(reply.body)
    except ValidationError:
        text = reply.body[:200].decode("utf-8", "replace").strip()
        problem = Problem(
            type="about:blank",
            code=f"http-{reply.status}",
            title=f"The server answered with status {reply.status}",
            status=reply.status,
            detail=text or "There was no text with it.",
        )
    after = reply.headers.get("retry-after", "")
    return GatewayProblem(problem, retry_after=float(after) if after.isdecimal() else None)
