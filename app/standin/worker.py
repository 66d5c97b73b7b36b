"""Runs prompts one after the other, as the one worker of a ComfyUI server does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.standin import nodes, plan
from app.standin.failures import Forgotten, Interrupted, NodeFailed
from app.standin.faults import Faults
from app.standin.misbehave import Place
from app.standin.nodes import Call
from app.standin.output import Saver
from app.standin.state import Item, Options, Queue, Sockets
from app.standin.stats import RunLog
from app.standin.telling import Run, Teller

STEPPING = frozenset({"WanVideoSampler", "ProbeSlow"})


@dataclass(slots=True)
class Cached:
    """What a node gave: its outputs, and what it told if it is an output node."""

    values: tuple[Any, ...]
    ui: dict[str, Any] | None


class Worker:
    """The worker.

    Attributes:
        current_node: The node that runs, told to a client that connects again.
        current_client: Whose prompt runs, or ran last.
    """

    def __init__(
        self,
        *,
        options: Options,
        queue: Queue,
        sockets: Sockets,
        object_info: Mapping[str, Any],
        faults: Faults,
        log: RunLog,
    ) -> None:
        self._options = options
        self._queue = queue
        self._info = object_info
        self._faults = faults
        self._log = log
        self._tell = Teller(sockets)
        self._saver = Saver(
            directory=options.directory, work=options.work, pad_to=options.output_bytes
        )
        self._cache: dict[str, Cached] = {}
        self.current_node: str | None = None
        self.current_client: str | None = None

    async def work(self) -> None:
        """Run prompts as they come, for as long as the server lives."""
        while True:
            item = self._queue.take()
            if item is None:
                self._tidy()
                await self._queue.arrived.wait()
                self._queue.arrived.clear()
                continue
            await self._run(item)
            self._tidy()

    def _tidy(self) -> None:
        """Do what `/free` asked for, between two prompts."""
        unload = self._queue.free.pop("unload_models", False)
        forget = self._queue.free.pop("free_memory", False)
        if unload or forget:
            self._faults.memory.free()
        if forget:
            self._cache.clear()

    async def _run(self, item: Item) -> None:
        keys = plan.signatures(item.graph, self._options.directory)
        self._cache = {key: self._cache[key] for key in keys.values() if key in self._cache}
        wish = item.extra.get("preview_method")
        run = Run(
            item=item,
            keys=keys,
            cached={node_id for node_id, key in keys.items() if key in self._cache},
            client_id=item.extra.get("client_id"),
            previews=self._options.previews if wish in {None, "default"} else wish != "none",
            need_mib=self._faults.need(node["class_type"] for node in item.graph.values()),
        )
        self._queue.interrupted = False
        self.current_client = run.client_id
        self._log.note("started", run.prompt_id)
        self._tell.started(run)
        try:
            await self._nodes(run)
        except Forgotten:
            self._log.note("ended", run.prompt_id, outcome="forgotten")
            return
        finally:
            self.current_node = None
        await asyncio.sleep(self._options.history_lag_seconds)
        outcome = run.messages[-1][0].removeprefix("execution_")
        self._log.note("ended", run.prompt_id, outcome=outcome)
        self._queue.done(run.entry())
        self._tell.over(run)

    async def _nodes(self, run: Run) -> None:
        for node_id in plan.order(run.item.graph, run.item.outputs, run.cached):
            try:
                await self._node(run, node_id)
            except Interrupted:
                self._tell.interrupted(run, node_id)
                return
            except Forgotten:
                raise
            except Exception as error:  # noqa: BLE001 - whatever a node raises is its answer
                values = self._values(run, node_id)
                self._tell.failed(run, node_id, NodeFailed.of(error), values)
                return
            # Lets requests be answered between nodes, as the real server's own thread does.
            await asyncio.sleep(0)
        self._tell.succeeded(run)

    async def _node(self, run: Run, node_id: str) -> None:
        if node_id in run.cached:
            ui = self._cache[run.keys[node_id]].ui
            if ui is not None:
                self._tell.executed(run, node_id, ui)
            self._tell.finished(run, node_id)
            return
        self.current_node = node_id
        self._tell.executing(run, node_id)
        self._check()
        result = await self._execute(run, self._call(run, node_id))
        self._check()
        if result.ui is not None:
            self._tell.executed(run, node_id, result.ui)
        self._cache[run.keys[node_id]] = result
        run.executed.append(node_id)
        self._tell.finished(run, node_id)

    async def _execute(self, run: Run, call: Call) -> Cached:
        output = bool(self._info[call.kind].get("output_node"))
        stepping = call.kind in STEPPING
        working = stepping or (output and not _steps_anywhere(run.item.graph))
        await self._faults.at(Place(call.node_id, call.kind, 0, working), run.need_mib)
        if stepping:
            await self._steps(run, call)
        if not output:
            return Cached(await asyncio.to_thread(nodes.run, call), None)
        report = self._tell.reporter(run, call.node_id, self._check)
        saved = await asyncio.to_thread(self._saver.save, call, run.item.graph, report)
        self._faults.spoil(saved.path)
        return Cached((None,), saved.ui)

    async def _steps(self, run: Run, call: Call) -> None:
        total = max(1, int(call.values.get("steps") or 1))
        seconds = float(call.values.get("delay", self._options.step_seconds))
        preview = run.previews and bool(call.values.get("preview", True))
        for step in range(1, total + 1):
            began = time.monotonic()
            place = Place(call.node_id, call.kind, step, working=True)
            await self._faults.at(place, run.need_mib)
            await asyncio.sleep(max(0.0, seconds - (time.monotonic() - began)))
            self._check()
            self._tell.step(run, call.node_id, step, total, preview=preview)

    def _check(self) -> None:
        """Stop here if the run is to stop; also called from the thread that encodes."""
        if self._queue.running is None:
            raise Forgotten
        if self._queue.interrupted:
            raise Interrupted

    def _values(self, run: Run, node_id: str) -> dict[str, Any]:
        """The inputs of a node, links replaced by what came over them."""
        values: dict[str, Any] = {}
        for name, value in run.item.graph[node_id]["inputs"].items():
            if not plan.is_link(value):
                values[name] = value
            elif (source := self._cache.get(run.keys[value[0]])) is not None:
                values[name] = source.values[value[1]]
        return values

    def _call(self, run: Run, node_id: str) -> Call:
        kind = run.kind(node_id)
        return Call(
            node_id=node_id,
            kind=kind,
            values=self._values(run, node_id),
            outputs=self._info[kind]["output"],
            directory=self._options.directory,
        )


def _steps_anywhere(graph: Mapping[str, Any]) -> bool:
    return any(node["class_type"] in STEPPING for node in graph.values())
