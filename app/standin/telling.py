"""What a run tells its client, message by message, as recorded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.standin.failures import NodeFailed
from app.standin.previews import Previews
from app.standin.state import Item, Sockets, milliseconds

REPORT_SECONDS = 0.1


@dataclass(slots=True)
class Run:
    """One prompt on its way.

    Attributes:
        item: The prompt.
        keys: The cache key of each node.
        cached: The nodes whose outputs were known at the start.
        client_id: Who hears of it; None tells some things to all and the rest to nobody.
        previews: Whether samplers send previews.
        need_mib: What its models hold on the card.
        messages: What the history will say.
        outputs: What the output nodes told.
        executed: The nodes that ran, in order.
        progress: How far each node is.
    """

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

    def kind(self, node_id: str) -> str:
        """The class of a node."""
        return str(self.item.graph[node_id]["class_type"])

    def entry(self) -> dict[str, Any]:
        """The history entry, less the prompt itself."""
        completed = self.messages[-1][0] == "execution_success"
        return {
            "outputs": self.outputs,
            "status": {
                "status_str": "success" if completed else "error",
                "completed": completed,
                "messages": self.messages,
            },
            "meta": {
                node_id: {
                    "node_id": node_id,
                    "display_node": node_id,
                    "parent_node": None,
                    "real_node_id": node_id,
                }
                for node_id in self.outputs
            },
        }


class Teller:
    """Sends the messages of runs, and keeps those that go into the history."""

    def __init__(self, sockets: Sockets) -> None:
        self._sockets = sockets
        self._previews = Previews(sockets)

    def started(self, run: Run) -> None:
        """A run begins: `execution_start` and `execution_cached`."""
        cached = [node_id for node_id in run.item.graph if node_id in run.cached]
        self._keep(run, "execution_start", {"prompt_id": run.prompt_id})
        self._keep(run, "execution_cached", {"nodes": cached, "prompt_id": run.prompt_id})

    def succeeded(self, run: Run) -> None:
        """Every output is there."""
        self._keep(run, "execution_success", {"prompt_id": run.prompt_id})

    def interrupted(self, run: Run, node_id: str) -> None:
        """The run was stopped at a node; without a client id all are told."""
        self._keep(run, "execution_interrupted", self._where(run, node_id), broadcast=True)

    def failed(self, run: Run, node_id: str, error: NodeFailed, values: Mapping[str, Any]) -> None:
        """A node raised; its inputs are told as text."""
        data = {
            **self._where(run, node_id),
            "exception_message": error.text(),
            "exception_type": error.kind,
            "traceback": ['  File "execution.py", in execute\n'],
            "current_inputs": {
                name: [value if isinstance(value, str | int | float | bool) else str(value)]
                for name, value in values.items()
            },
            "current_outputs": list(run.item.graph),
        }
        self._keep(run, "execution_error", data)

    def over(self, run: Run) -> None:
        """The last word about a run: the history has it now."""
        if run.client_id is not None:
            data = {"node": None, "prompt_id": run.prompt_id}
            self._sockets.send("executing", data, run.client_id)

    def executing(self, run: Run, node_id: str) -> None:
        """A node begins."""
        self.progress(run, node_id, 0.0, 1.0, "running")
        if run.client_id is not None:
            data = {"node": node_id, "display_node": node_id, "prompt_id": run.prompt_id}
            self._sockets.send("executing", data, run.client_id)

    def executed(self, run: Run, node_id: str, ui: Mapping[str, Any]) -> None:
        """An output node has written its files."""
        run.outputs[node_id] = ui
        if run.client_id is not None:
            names = {"node": node_id, "display_node": node_id}
            data = {**names, "output": ui, "prompt_id": run.prompt_id}
            self._sockets.send("executed", data, run.client_id)

    def finished(self, run: Run, node_id: str) -> None:
        """A node is done."""
        most = run.progress[node_id]["max"] if node_id in run.progress else 1
        self.progress(run, node_id, most, most, "finished")

    def step(self, run: Run, node_id: str, value: int, total: int, *, preview: bool) -> None:
        """A sampler has made a step; previews come before or after as the client can read them."""
        modern = run.client_id in self._sockets.metadata
        self.progress(run, node_id, value, total, "running")
        if preview and modern:
            self._previews.send(run.prompt_id, node_id, run.client_id, value)
        data = {"value": value, "max": total, "prompt_id": run.prompt_id, "node": node_id}
        self._sockets.send("progress", data, run.client_id)
        if preview and not modern:
            self._previews.send_plain(run.client_id, value)

    def reporter(
        self, run: Run, node_id: str, check: Callable[[], None]
    ) -> Callable[[int, int], None]:
        """Takes the reports of a thread that encodes.

        Like ComfyUI's progress bar it passes on the first and the last and no more than ten a
        second between them.

        Args:
            run: The run.
            node_id: The node that encodes.
            check: Raises, in that thread, if the run is to stop.
        """
        loop = asyncio.get_running_loop()
        told = float("-inf")

        def tell(value: int, total: int) -> None:
            self.step(run, node_id, value, total, preview=False)

        def report(value: int, total: int) -> None:
            nonlocal told
            check()
            now = time.monotonic()
            if value == total or now - told >= REPORT_SECONDS:
                told = now
                loop.call_soon_threadsafe(tell, value, total)

        return report

    def progress(self, run: Run, node_id: str, value: float, most: float, state: str) -> None:
        """How far all nodes seen so far are."""
        run.progress[node_id] = {
            "value": value,
            "max": most,
            "state": state,
            "node_id": node_id,
            "prompt_id": run.prompt_id,
            "display_node_id": node_id,
            "parent_node_id": None,
            "real_node_id": node_id,
        }
        data = {"prompt_id": run.prompt_id, "nodes": run.progress}
        self._sockets.send("progress_state", data, run.client_id)

    @staticmethod
    def _where(run: Run, node_id: str) -> dict[str, Any]:
        return {
            "prompt_id": run.prompt_id,
            "node_id": node_id,
            "node_type": run.kind(node_id),
            "executed": run.executed,
        }

    def _keep(
        self, run: Run, kind: str, data: Mapping[str, Any], *, broadcast: bool = False
    ) -> None:
        stamped = {**data, "timestamp": milliseconds()}
        run.messages.append([kind, stamped])
        if run.client_id is not None or broadcast:
            self._sockets.send(kind, stamped, run.client_id)
