"""From ComfyUI's messages to a job's phase, fraction and time to go. Pure but for the clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from app.comfy import messages
from app.jobs.queue import Report
from app.workflows.values import NodeShare


@dataclass(slots=True)
class Tracker:
    """Adds up what the nodes of one graph report.

    Attributes:
        shares: Node id to its phase and its share of the whole run.
        now: The clock.
        expected_seconds: How long such a run takes; None if nothing alike was measured.
        every_seconds: A report with nothing new but the fraction is made at most this often.
    """

    shares: Mapping[str, NodeShare]
    now: Callable[[], datetime]
    expected_seconds: float | None = None
    every_seconds: float = 1.0
    _done: dict[str, float] = field(default_factory=dict)
    _phase: str | None = None
    _node: str | None = None
    _step: int | None = None
    _steps: int | None = None
    _fraction: float = 0.0
    _started_at: datetime | None = None
    _sampled_from: tuple[datetime, int] | None = None
    _reported_at: datetime | None = None
    _unsaid: bool = False

    def started(self) -> None:
        """The engine began to execute."""
        self._started_at = self._started_at or self.now()

    def take(self, message: messages.Message) -> Report | None:
        """Note a message; give a report where there is something new to tell."""
        before = self._phase
        match message:
            case messages.Cached(nodes=nodes):
                self._done.update(dict.fromkeys(nodes, 1.0))
            case messages.Executing(node=str(node)):
                self._enter(node)
            case messages.NodeProgress(node=node, value=value, max=maximum):
                self._enter(node)
                self._progress(node, value, maximum)
            case messages.NodesProgress(finished=finished):
                self._done.update(dict.fromkeys(finished, 1.0))
            case messages.Executed(node=node):
                self._done[node] = 1.0
            case _:
                return None
        total = sum(share.share * self._done.get(node, 0.0) for node, share in self.shares.items())
        self._fraction = max(self._fraction, min(total, 0.99))
        return self._report(changed=self._phase != before)

    def _enter(self, node: str) -> None:
        share = self.shares.get(node)
        if share is None:
            return
        if node != self._node:
            self._step = self._steps = None
            self._sampled_from = None
        self._node = node
        self._phase = share.phase

    def _progress(self, node: str, value: float, maximum: float) -> None:
        if maximum <= 0:
            return
        self._done[node] = min(value / maximum, 1.0)
        share = self.shares.get(node)
        if share is not None and share.phase == "sampling":
            self._step, self._steps = int(value), int(maximum)
            if self._sampled_from is None:
                self._sampled_from = (self.now(), int(value))

    def _report(self, *, changed: bool) -> Report | None:
        now = self.now()
        due = self._reported_at is None or (
            now - self._reported_at >= timedelta(seconds=self.every_seconds)
        )
        self._unsaid = not changed and not due
        if self._unsaid:
            return None
        return self._say(now)

    def rest(self) -> Report | None:
        """Give what was held back because it came too soon after the last report, if anything."""
        if not self._unsaid:
            return None
        self._unsaid = False
        return self._say(self.now())

    def _say(self, now: datetime) -> Report:
        self._reported_at = now
        node = self.shares.get(self._node) if self._node is not None else None
        return Report(
            phase=self._phase,
            fraction=round(self._fraction, 4),
            step=self._step,
            steps=self._steps,
            node=node.title if node is not None else None,
            eta_at=self._eta(now),
        )

    def _eta(self, now: datetime) -> datetime | None:
        """From the pace of this run's own steps; before there is one, from earlier runs."""
        if self._sampled_from is not None and self._step is not None and self._steps is not None:
            since, first = self._sampled_from
            steps = self._step - first
            if steps > 0:
                pace = (now - since) / steps
                rest = sum(
                    share.share * (1 - self._done.get(node, 0.0))
                    for node, share in self.shares.items()
                    if share.phase != "sampling"
                )
                sampled = sum(s.share for s in self.shares.values() if s.phase == "sampling")
                after = pace * self._steps * (rest / sampled) if sampled else timedelta()
                return now + pace * (self._steps - self._step) + after
        if self.expected_seconds is not None and self._started_at is not None:
            return max(self._started_at + timedelta(seconds=self.expected_seconds), now)
        return None
