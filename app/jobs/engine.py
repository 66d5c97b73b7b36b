"""One ComfyUI as the dispatcher sees it: reachable or not, healthy or not, able to run what.

It watches `/system_stats`, holds every workflow against `/object_info` each time the engine
(re)appears, and counts the engine's lives, so that a runner can tell a death from forgetfulness.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, Literal

import structlog

from app.comfy.client import ComfyClient, EngineError
from app.comfy.supervisor import Supervisor
from app.wire import MissingPart
from app.workflows.check import check
from app.workflows.models import download_command
from app.workflows.registry import Registry
from app.workflows.workflow import Workflow

State = Literal["starting", "ready", "unreachable", "unhealthy", "stopped"]

log = structlog.get_logger(__name__)


class Engine:
    """The state of one engine, kept by its `watch` loop."""

    def __init__(
        self,
        *,
        name: str,
        client: ComfyClient,
        workflows: Registry,
        supervisor: Supervisor | None = None,
        poll_seconds: float = 1.0,
        check_seconds: float = 60.0,
        on_change: Callable[[], None] = lambda: None,
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.client = client
        self.supervisor = supervisor
        self.state: State = "starting"
        self.detail: str | None = None
        self.version: str | None = None
        self.missing: dict[str, tuple[MissingPart, ...]] = {}
        self.max_upload_bytes: int | None = None
        self.lives = 0
        self._workflows = workflows
        self._poll_seconds = poll_seconds
        self._check_seconds = check_seconds
        self._on_change = on_change
        self._on_restart = on_restart
        self._seen_generation = -1
        self._ready = asyncio.Event()
        self._wake = asyncio.Event()
        self._checked_at = float("-inf")
        self._fault: str | None = None
        self._our_restarts: set[int] = set()
        self._faulted_lives: set[int] = set()
        self._placed: dict[str, tuple[datetime, asyncio.Event]] = {}

    @property
    def ready(self) -> bool:
        """Whether a job may be given to it."""
        return self.state == "ready"

    def can_run(self, workflow: str) -> bool:
        """Whether everything the workflow needs was seen on the engine."""
        return not self.missing.get(workflow, (MissingPart(kind="node", name="?", detail="?"),))

    def models_of(self, workflow: str) -> str:
        """`Workflow.models_key` of a workflow that can run here."""
        return self._workflows.get(workflow).models_key

    async def wait_ready(self, seconds: float) -> bool:
        """Wait until the engine is ready, at most so long; say whether it is."""
        try:
            async with asyncio.timeout(seconds):
                await self._ready.wait()
        except TimeoutError:
            return False
        return True

    def log_tail(self) -> str | None:
        """The last lines of the engine's log, where the gateway owns the engine."""
        return self.supervisor.log_tail() if self.supervisor is not None else None

    def placed(self, attempt_id: str, at: datetime) -> None:
        """Remember that the engine was given an attempt's prompt then."""
        self._placed[attempt_id] = (at, asyncio.Event())

    def ended(self, attempt_id: str) -> None:
        """Forget an attempt: how its run ended is known."""
        if (placed := self._placed.pop(attempt_id, None)) is not None:
            placed[1].set()

    async def fault(self, detail: str, *, attempt_id: str, life: int) -> bool:
        """Latch a CUDA fault: nothing is run until the engine was restarted.

        Args:
            detail: What the engine said.
            attempt_id: Whose run it ended.
            life: The engine's life in which it happened.

        Returns:
            Whether the attempt is to blame: after the first fault of a life everything fails in
            the same way. Which was the first is known once those that ran before have ended.
        """
        if life == self.lives and life not in self._faulted_lives:
            self._fault = detail
            self._set("unhealthy", detail)
            self._wake.set()
        mine = self._placed.get(attempt_id)
        for at, event in list(self._placed.values()):
            if mine is not None and at < mine[0]:
                await event.wait()
        if life in self._faulted_lives:
            return False
        self._faulted_lives.add(life)
        return True

    def recheck(self) -> None:
        """Look at the engine again now."""
        self._checked_at = float("-inf")
        self._wake.set()

    async def restart(self, reason: str, *, life: int | None = None) -> bool:
        """Restart the engine if the gateway owns it; say whether it did.

        Args:
            reason: Why, for the log and whoever looks.
            life: The engine's life that is to end; where that is over already, nothing is done.
        """
        if self.supervisor is None:
            return False
        new = life != self.lives or self.supervisor.generation != self._seen_generation
        if life is not None and new:
            return False
        self._our_restarts.add(self.lives)
        self._set("starting", reason)
        await self.supervisor.restart(reason)
        self.recheck()
        return True

    def restarted_by_us(self, *, since_life: int) -> bool:
        """Whether the gateway itself ended the life that the engine had then."""
        return since_life in self._our_restarts

    @property
    def pids(self) -> tuple[int, ...]:
        """The engine's process, where the gateway owns it."""
        pid = self.supervisor.pid if self.supervisor is not None else None
        return (pid,) if pid is not None else ()

    async def torch_mib(self) -> int | None:
        """What torch holds on the engine's first device, in MiB; None on a CPU.

        Raises:
            EngineError: ComfyUI does not answer.
        """
        stats = await self.client.system_stats()
        devices = [device for device in stats.devices if device.type == "cuda"]
        return devices[0].torch_vram_total >> 20 if devices else None

    async def watch(self) -> None:
        """Keep `state` true, for as long as the gateway runs."""
        while True:
            await self._look()
            self._wake.clear()
            try:
                async with asyncio.timeout(self._poll_seconds):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _look(self) -> None:
        supervised = self.supervisor
        if supervised is not None and supervised.generation != self._seen_generation:
            # The first process that is seen is no new life: attempts may be followed in it already.
            self._new_life(counted=self._seen_generation >= 1)
            self._seen_generation = supervised.generation
        try:
            stats = await self.client.system_stats()
        except EngineError as error:
            if self.state == "ready" or self._fault is not None:
                self._new_life(counted=supervised is None)
            starting = supervised is not None and supervised.state == "starting"
            if starting:
                self._set("starting", "The engine is starting.")
            else:
                self._set("unreachable", str(error))
            return
        if supervised is not None:
            supervised.answered(self._seen_generation)
        if self._fault is not None:
            self._set("unhealthy", self._fault)
            return
        self.version = stats.comfyui_version
        loop_time = asyncio.get_running_loop().time()
        if self.state != "ready" or loop_time - self._checked_at > self._check_seconds:
            await self._check_workflows()
            self._checked_at = loop_time

    def _new_life(self, *, counted: bool = True) -> None:
        """Forget what was true of the engine's last process."""
        if counted:
            self._on_restart()
        self.lives += counted
        self._fault = None
        self._checked_at = float("-inf")

    async def _check_workflows(self) -> None:
        try:
            info = await self.client.object_info()
        except EngineError as error:
            self._set("unreachable", str(error))
            return
        with suppress(EngineError):  # not known, then: a file that is too large is refused later
            self.max_upload_bytes = (await self.client.features()).max_upload_size
        self.missing = {workflow.name: _checked(workflow, info) for workflow in self._workflows}
        for name, parts in self.missing.items():
            if parts and self.state != "ready":
                lacks = {"missing": [part.name for part in parts]}
                if any(part.kind == "model" for part in parts):
                    lacks["download"] = [download_command(self._workflows.get(name), None)]
                log.warning("workflow unavailable", workflow=name, **lacks)
        self._set("ready", None)

    def _set(self, state: State, detail: str | None) -> None:
        changed = state != self.state
        self.state, self.detail = state, detail
        if state == "ready":
            self._ready.set()
        else:
            self._ready.clear()
        if changed:
            log.info("engine state", engine=self.name, state=state, detail=detail)
            self._on_change()


def _checked(workflow: Workflow, info: dict[str, Any]) -> tuple[MissingPart, ...]:
    """Hold a workflow against the engine's nodes; an answer of no known form lacks everything."""
    try:
        return check(workflow, info)
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        log.warning("node list not understood", workflow=workflow.name, reason=repr(error))
        detail = "ComfyUI's node list has a form that is not known."
        return (MissingPart(kind="node", name="?", detail=detail),)
