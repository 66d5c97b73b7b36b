"""Following one prompt in ComfyUI: the socket for live progress, the HTTP API for truth.

The socket's loss never loses a job, and its silence proves nothing: after a few quiet seconds the
queue and the history are asked, in that order. A message about another prompt changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from app.comfy import messages
from app.comfy.client import Absent, EngineError, Finished, Pending, Running
from app.comfy.stream import EventStream, StreamLost
from app.jobs.engine import Engine


@dataclass(frozen=True, slots=True)
class Ended:
    """The engine has the prompt in its history."""

    entry: messages.HistoryEntry


@dataclass(frozen=True, slots=True)
class Gone:
    """The engine knows the prompt no longer.

    Attributes:
        started: Whether it had begun to execute.
        died: Whether the engine's process ended in between.
        since_life: The engine's life in which the following began.
    """

    started: bool
    died: bool
    since_life: int


@dataclass(frozen=True, slots=True)
class Stalled:
    """Neither message nor progress for too long."""

    silent_seconds: float
    started: bool


@dataclass(frozen=True, slots=True)
class Overdue:
    """The run, or the wait for it in the engine's queue, took longer than the job allows."""

    started: bool


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """Somebody wants the job canceled."""


Ending = Ended | Gone | Stalled | Overdue | CancelAsked


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what, in seconds.

    Attributes:
        quiet: Silence after which the engine is asked.
        stall: Silence that means a stall while it samples.
        stall_loading: The same before the first step, while models load.
        run: Longest run, from the engine's execution_start.
        wait: Longest wait for that in the engine's queue, behind another prompt.
        interrupt: How long an engine may take to obey an interrupt: it lands at the next step.
    """

    quiet: float
    stall: float
    stall_loading: float
    run: float
    interrupt: float
    wait: float = float("inf")


@dataclass(slots=True)
class Sighting:
    """What was seen of the prompt so far."""

    started: bool = False
    stepped: bool = False
    pending: bool = False
    started_at: float | None = None
    lives: int = 0
    lost_socket: bool = False


_TICK_SECONDS = 0.25
_LONGEST_TICK = 0.5
"""A tick that took longer was not slept but missed: the process was frozen, or starved."""

Observer = Callable[[messages.Message], Awaitable[None]]


@dataclass(slots=True)
class Follower:
    """Follows one prompt until it ends, is gone, stalls or is to be canceled."""

    engine: Engine
    prompt_id: str
    patience: Patience
    cancel_asked: Callable[[], Awaitable[bool]]
    on_start: Callable[[], Awaitable[None]]
    on_message: Observer
    on_quiet: Callable[[], Awaitable[None]]
    cancel: asyncio.Event
    sight: Sighting = field(default_factory=Sighting)
    _silent: float = 0.0
    _doubt_until: float = 0.0
    _since: float = 0.0
    _inbox: asyncio.Queue[messages.Message | None] = field(default_factory=asyncio.Queue)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Keep a socket open for the length of the block, reconnecting when it is lost."""
        self.sight.lives = self.engine.lives
        connected = asyncio.Event()
        task = asyncio.create_task(self._listen(connected), name=f"listen-{self.prompt_id}")
        ticks = asyncio.create_task(self._tick(), name=f"tick-{self.prompt_id}")
        try:
            # The socket must be there before the prompt is, or its first messages are missed.
            # An engine that refuses the socket is followed by asking alone.
            with suppress(TimeoutError):
                async with asyncio.timeout(self.patience.quiet):
                    await connected.wait()
            yield
        finally:
            for one in (task, ticks):
                one.cancel()
            await asyncio.gather(task, ticks, return_exceptions=True)

    def doubt(self, seconds: float) -> None:
        """Do not believe for so long that the engine does not know the prompt."""
        self._doubt_until = asyncio.get_running_loop().time() + seconds

    async def _tick(self) -> None:
        """Count the silence that somebody listened to.

        A gateway that was frozen, or starved, has not been listening: the silence of that time
        proves nothing, so the clock on the wall will not do.
        """
        loop = asyncio.get_running_loop()
        before = loop.time()
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = loop.time()
            self._silent += min(now - before, _LONGEST_TICK)
            before = now

    def _heard(self) -> None:
        self._silent = 0.0

    async def _listen(self, connected: asyncio.Event) -> None:
        delay = 0.05
        while True:
            try:
                async with self.engine.client.stream(self.prompt_id) as stream:
                    connected.set()
                    delay = 0.05
                    # None means: look, something may have been missed.
                    self._inbox.put_nowait(None)
                    await self._drain(stream)
            except StreamLost:
                self.sight.lost_socket |= connected.is_set()
                self._inbox.put_nowait(None)
            await asyncio.sleep(delay)
            delay = min(delay * 2, self.patience.quiet)

    async def _drain(self, stream: EventStream) -> None:
        async for message in stream:
            if message.prompt_id == self.prompt_id:
                self._inbox.put_nowait(message)

    async def follow(self) -> Ending:
        """Wait for the prompt's end. The prompt may be at any stage, or unknown."""
        self._heard()
        self._since = asyncio.get_running_loop().time()
        ask = True
        cancel = asyncio.create_task(self.cancel.wait())
        try:
            while True:
                ending = (await self._ask() if ask else None) or await self._bounds(look=ask)
                if ending is not None:
                    return ending
                message, quiet = await self._next(cancel)
                ask = quiet or message is None or _may_be_last(message)
                if quiet:
                    await self.on_quiet()
                if message is not None:
                    self._heard()
                    await self._take(message)
        finally:
            cancel.cancel()

    async def _next(self, cancel: asyncio.Task[bool]) -> tuple[messages.Message | None, bool]:
        getter = asyncio.create_task(self._inbox.get())
        try:
            done, _ = await asyncio.wait(
                {getter, cancel}, timeout=self.patience.quiet, return_when=asyncio.FIRST_COMPLETED
            )
            return (getter.result(), False) if getter in done else (None, True)
        finally:
            getter.cancel()

    async def _take(self, message: messages.Message) -> None:
        if isinstance(message, messages.Started) or (
            not self.sight.started and isinstance(message, messages.Executing) and message.node
        ):
            await self._mark_started()
        if isinstance(message, messages.NodeProgress):
            self.sight.stepped = True
        elif isinstance(message, messages.Executing):
            self.sight.stepped = False  # the next node may have models to load first
        await self.on_message(message)

    async def _mark_started(self) -> None:
        if self.sight.started:
            return
        loop = asyncio.get_running_loop()
        self.sight.started = True
        self.sight.started_at = loop.time()
        self._heard()
        await self.on_start()

    async def _ask(self) -> Ending | None:
        """Ask the engine where the prompt is."""
        try:
            located = await self.engine.client.locate(self.prompt_id)
        except EngineError:
            return None
        match located:
            case Finished(entry=entry):
                return Ended(entry)
            case Running():
                await self._mark_started()
            case Pending():
                self.sight.pending = True
                self._heard()
            case Absent() if asyncio.get_running_loop().time() < self._doubt_until:
                return None
            case Absent():
                # A living ComfyUI that drops a socket still has its queue; a prompt that is gone
                # after the socket broke went with the process, however fast that came back.
                died = self.engine.lives != self.sight.lives or self.sight.lost_socket
                return Gone(self.sight.started, died, self.sight.lives)
        return None

    async def _bounds(self, *, look: bool) -> Ending | None:
        if self.cancel.is_set() or (look and await self.cancel_asked()):
            return CancelAsked()
        now = asyncio.get_running_loop().time()
        if self.sight.started_at is not None and now - self.sight.started_at > self.patience.run:
            return Overdue(started=True)
        waits = look and self.sight.pending and not self.sight.started
        if waits and now - self._since > self.patience.wait:
            return Overdue(started=False)
        silent = self._silent
        limit = self.patience.stall if self.sight.stepped else self.patience.stall_loading
        return Stalled(silent, self.sight.started) if silent > limit else None


def _may_be_last(message: messages.Message) -> bool:
    """Whether history may hold the prompt now.

    `execution_success` can come before the history entry; `executing` with no node comes after
    it (recorded, scenario 13). So only the latter is worth a look, beside errors.
    """
    return isinstance(message, messages.Executing) and message.node is None
