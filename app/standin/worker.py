"""Runs prompts one after the other and tells about them as ComfyUI does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.standin import nodes, plan
from app.standin.failures import Forgotten, Interrupted, NodeFailed
from app.standin.faults import Faults
from app.standin.misbehave import Place
from app.standin.nodes import Call
from app.standin.output import Saver
from app.standin.previews import Previews
from app.standin.state import Item, Options, Queue, Sockets, milliseconds
from app.standin.stats import RunLog

REPORT_SECONDS = 0.1
STEPPING = frozenset({"WanVideoSampler", "ProbeSlow"})


@dataclass(slots=True)
class Cached:
    """What a node gave: its outputs, and what it told if it is an output node."""

    values: tuple[Any, ...]
    ui: dict[str, Any] | None


@dataclass(slots=True)
class Run:
    """One prompt on its way."""

    item: Item
    keys: dict[str, str]
    cached: set[str]
    client_id: str | None
    previews: bool
    need_mib: int
    messages: list[list[Any]] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)
    executed: list[str] = field(default_factory=list)
    progress: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def prompt_id(self) -> str:
        """The prompt's id."""
        return self.item.prompt_id


class Worker:
    """The one thread of work of a ComfyUI server.

    Attributes:
        current_node: The node that runs, told to a client that connects again.
        current_client: Whose prompt runs.
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
        self._sockets = sockets
        self._info = object_info
        self._faults = faults
        self._log = log
        self._saver = Saver(
            directory=options.directory, work=options.work, pad_to=options.output_bytes
        )
        self._previews = Previews(sockets)
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

    def _tidy(self) -> None:
        if self._queue.free.pop("unload_models", False):
            self._faults.memory.free()
        if self._queue.free.pop("free_memory", False):
            self._faults.memory.free()
            self._cache.clear()

    async def _run(self, item: Item) -> None:
        keys = plan.signatures(item.graph, self._options.directory)
        self._cache = {key: self._cache[key] for key in keys.values() if key in self._cache}
        cached = {node_id for node_id, key in keys.items() if key in self._cache}
        wish = item.extra.get("preview_method")
        previews = self._options.previews if wish in {None, "default"} else wish != "none"
        need_mib = self._faults.need(node["class_type"] for node in item.graph.values())
        run = Run(item, keys, cached, item.extra.get("client_id"), previews, need_mib)
        self._queue.interrupted = False
        self.current_client = run.client_id
        self._log.note("started", run.prompt_id)
        self._message(run, "execution_start", {"prompt_id": run.prompt_id})
        nodes_cached = [node_id for node_id in item.graph if node_id in cached]
        self._message(run, "execution_cached", {"nodes": nodes_cached, "prompt_id": run.prompt_id})
        try:
            succeeded = await self._nodes(run)
        except Forgotten:
            self.current_node = None
            self._log.note("ended", run.prompt_id, outcome="forgotten")
            return
        await asyncio.sleep(self._options.history_lag_seconds)
        self._finish(run, succeeded=succeeded)

    def _finish(self, run: Run, *, succeeded: bool) -> None:
        self.current_node = None
        outcome = run.messages[-1][0].removeprefix("execution_")
        self._log.note("ended", run.prompt_id, outcome=outcome)
        meta = {
            node_id: {
                "node_id": node_id,
                "display_node": node_id,
                "parent_node": None,
                "real_node_id": node_id,
            }
            for node_id in run.outputs
        }
        entry = {
            "outputs": run.outputs,
            "status": {
                "status_str": "success" if succeeded else "error",
                "completed": succeeded,
                "messages": run.messages,
            },
            "meta": meta,
        }
        self._queue.done(entry)
        if run.client_id is not None:
            self._sockets.send(
                "executing", {"node": None, "prompt_id": run.prompt_id}, run.client_id
            )

    async def _nodes(self, run: Run) -> bool:
        graph = run.item.graph
        for node_id in plan.order(graph, run.item.outputs, run.cached):
            try:
                await self._node(run, node_id)
            except Interrupted:
                self._message(
                    run,
                    "execution_interrupted",
                    {
                        "prompt_id": run.prompt_id,
                        "node_id": node_id,
                        "node_type": graph[node_id]["class_type"],
                        "executed": run.executed,
                    },
                    broadcast=True,
                )
                return False
            except Forgotten:
                raise
            except Exception as error:  # noqa: BLE001 - whatever a node raises is its answer
                self._fail(run, node_id, NodeFailed.of(error))
                return False
            # Lets requests be answered between nodes, as the real server's own thread does.
            await asyncio.sleep(0)
        self._message(run, "execution_success", {"prompt_id": run.prompt_id})
        return True

    def _fail(self, run: Run, node_id: str, error: NodeFailed) -> None:
        node = run.item.graph[node_id]
        values = self._values(run, node_id, broken=True)
        data = {
            "prompt_id": run.prompt_id,
            "node_id": node_id,
            "node_type": node["class_type"],
            "executed": run.executed,
            "exception_message": error.text(),
            "exception_type": error.kind,
            "traceback": ['  File "execution.py", in execute\n'],
            "current_inputs": {
                name: [value if isinstance(value, str | int | float | bool) else str(value)]
                for name, value in values.items()
            },
            "current_outputs": list(run.item.graph),
        }
        self._message(run, "execution_error", data)

    async def _node(self, run: Run, node_id: str) -> None:
        if node_id in run.cached:
            self._tell_cached(run, node_id)
            return
        kind = run.item.graph[node_id]["class_type"]
        self._progress(run, node_id, 0.0, 1.0, "running")
        self.current_node = node_id
        if run.client_id is not None:
            data = {"node": node_id, "display_node": node_id, "prompt_id": run.prompt_id}
            self._sockets.send("executing", data, run.client_id)
        self._check_interrupt()
        call = self._call(run, node_id)
        output = bool(self._info[kind].get("output_node"))
        stepping = kind in STEPPING
        working = stepping or (output and not _steps_anywhere(run.item.graph))
        await self._faults.at(Place(node_id, kind, 0, working), run.need_mib)
        if stepping:
            await self._steps(run, call)
        ui = None
        if output:
            saved = await asyncio.to_thread(
                self._saver.save, call, run.item.graph, self._reporter(run, node_id)
            )
            self._faults.spoil(saved.path)
            ui, values = saved.ui, (None,)
        else:
            values = await asyncio.to_thread(nodes.run, call)
        self._check_interrupt()
        if ui is not None:
            run.outputs[node_id] = ui
            self._executed(run, node_id, ui)
        self._cache[run.keys[node_id]] = Cached(values, ui)
        run.executed.append(node_id)
        state = run.progress[node_id]
        self._progress(run, node_id, state["max"], state["max"], "finished")

    def _tell_cached(self, run: Run, node_id: str) -> None:
        ui = self._cache[run.keys[node_id]].ui
        if ui is not None:
            run.outputs[node_id] = ui
            self._executed(run, node_id, ui)
        self._progress(run, node_id, 1, 1, "finished")

    def _executed(self, run: Run, node_id: str, ui: Mapping[str, Any]) -> None:
        if run.client_id is None:
            return
        data = {
            "node": node_id,
            "display_node": node_id,
            "output": ui,
            "prompt_id": run.prompt_id,
        }
        self._sockets.send("executed", data, run.client_id)

    async def _steps(self, run: Run, call: Call) -> None:
        node_id, values = call.node_id, call.values
        total = max(1, int(values.get("steps") or 1))
        seconds = float(values.get("delay", self._options.step_seconds))
        preview = run.previews and bool(values.get("preview", True))
        for step in range(1, total + 1):
            began = time.monotonic()
            await self._faults.at(Place(node_id, call.kind, step, working=True), run.need_mib)
            await asyncio.sleep(max(0.0, seconds - (time.monotonic() - began)))
            self._check_interrupt()
            self._progress(run, node_id, step, total, "running")
            new = run.client_id in self._sockets.metadata
            if preview and new:
                self._previews.send(run.prompt_id, node_id, run.client_id, step)
            data = {"value": step, "max": total, "prompt_id": run.prompt_id, "node": node_id}
            self._sockets.send("progress", data, run.client_id)
            if preview and not new:
                self._previews.send_plain(run.client_id, step)

    def _reporter(self, run: Run, node_id: str) -> Callable[[int, int], None]:
        """Takes reports from a thread that encodes; raises there if the run is to stop.

        Like ComfyUI's progress bar it passes on the first and the last and no more than ten a
        second between them.
        """
        loop = asyncio.get_running_loop()
        told = float("-inf")

        def tell(value: int, total: int) -> None:
            self._progress(run, node_id, value, total, "running")
            data = {"value": value, "max": total, "prompt_id": run.prompt_id, "node": node_id}
            self._sockets.send("progress", data, run.client_id)

        def report(value: int, total: int) -> None:
            nonlocal told
            self._check_interrupt()
            now = time.monotonic()
            if value < total and now - told < REPORT_SECONDS:
                return
            told = now
            loop.call_soon_threadsafe(tell, value, total)

        return report

    def _progress(self, run: Run, node_id: str, value: float, maximum: float, state: str) -> None:
        run.progress[node_id] = {
            "value": value,
            "max": maximum,
            "state": state,
            "node_id": node_id,
            "prompt_id": run.prompt_id,
            "display_node_id": node_id,
            "parent_node_id": None,
            "real_node_id": node_id,
        }
        data = {"prompt_id": run.prompt_id, "nodes": run.progress}
        self._sockets.send("progress_state", data, run.client_id)

    def _check_interrupt(self) -> None:
        if self._queue.running is None:
            raise Forgotten
        if self._queue.interrupted:
            raise Interrupted

    def _message(
        self, run: Run, kind: str, data: Mapping[str, Any], *, broadcast: bool = False
    ) -> None:
        stamped = {**data, "timestamp": milliseconds()}
        run.messages.append([kind, stamped])
        if run.client_id is not None or broadcast:
            self._sockets.send(kind, stamped, run.client_id)

    def _values(self, run: Run, node_id: str, *, broken: bool = False) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, value in run.item.graph[node_id]["inputs"].items():
            if plan.is_link(value):
                source = self._cache.get(run.keys[value[0]])
                if source is None or value[1] >= len(source.values):
                    if broken:
                        continue
                    raise NodeFailed("IndexError", "tuple index out of range")
                values[name] = source.values[value[1]]
            else:
                values[name] = value
        return values

    def _call(self, run: Run, node_id: str) -> Call:
        kind = run.item.graph[node_id]["class_type"]
        return Call(
            node_id=node_id,
            kind=kind,
            values=self._values(run, node_id),
            outputs=self._info[kind]["output"],
            directory=self._options.directory,
        )


def _steps_anywhere(graph: Mapping[str, Any]) -> bool:
    return any(node["class_type"] in STEPPING for node in graph.values())
