"""Progress that a person watches: bars on a terminal, lines where there is none."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from app import wire
from app.cli.options import is_terminal
from app.cli.output import duration, note, size
from app.client import GatewayClient, Preview

_ASK_EVERY_SECONDS = 0.3

_WORDS = {
    "waiting_for_turn": "waiting for its turn",
    "waiting_for_vram": "waiting for GPU memory",
    "waiting_for_engine": "waiting for ComfyUI",
}


def phase_of(job: wire.Job) -> str:
    """What a job is doing, in words."""
    if job.cancel_requested and job.status == "running":
        return "stopping"
    if job.phase is None or job.status in wire.TERMINAL_STATUSES:
        return job.status
    return _WORDS.get(job.phase, job.phase)


def step_of(job: wire.Job) -> str:
    """Which step of how many, where that is known."""
    progress = job.progress
    if progress.step is None or progress.steps is None or job.phase != "sampling":
        return ""
    return f"step {progress.step} of {progress.steps}"


def eta_of(job: wire.Job) -> str:
    """How long a running job still takes; nothing where it takes longer than expected."""
    seconds = job.progress.eta_seconds
    if job.status != "running" or seconds is None or seconds < 1:
        return ""
    return duration(seconds)


class Screen(Protocol):
    """Shows what goes on."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def sent(self, done: int, total: int) -> None:
        """So many bytes are sent."""

    def received(self, done: int, total: int) -> None:
        """So many bytes have come."""

    def job(self, job: wire.Job) -> None:
        """The job is now like this."""


def screen() -> Screen:
    """Bars where a person looks, lines where not."""
    return Bars() if is_terminal() else Lines()


class Bars:
    """A bar for each thing, on standard error."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[more]}"),
            console=Console(file=sys.stderr),
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def sent(self, done: int, total: int) -> None:
        """So many bytes are sent."""
        self._bytes("sending", done, total)

    def received(self, done: int, total: int) -> None:
        """So many bytes have come."""
        self._bytes("downloading", done, total)

    def job(self, job: wire.Job) -> None:
        """The job is now like this."""
        eta = eta_of(job)
        more = [step_of(job), f"ETA {eta}" if eta else ""]
        if job.status == "queued":
            more += [f"{job.queue_position} ahead" if job.queue_position else "", job.reason or ""]
        fraction = 1.0 if job.status == "succeeded" else job.progress.fraction
        text = " · ".join(part for part in more if part)
        self._update("job", phase_of(job), fraction, 1.0, text)

    def _bytes(self, what: str, done: int, total: int) -> None:
        self._update(what, what, done, total, f"{size(done)} of {size(total)}")

    def _update(self, name: str, words: str, done: float, total: float, more: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(words, total=total, more=more)
        self._progress.update(
            self._tasks[name], description=f"{words:<22}", completed=done, total=total, more=more
        )


class Lines:
    """A line for each change, on standard error."""

    def __init__(self) -> None:
        self._last = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def sent(self, done: int, total: int) -> None:
        """So many bytes are sent."""
        if done >= total:
            self._line(f"sent {size(total)}")

    def received(self, done: int, total: int) -> None:
        """So many bytes have come."""
        if done >= total:
            self._line(f"downloaded {size(total)}")

    def job(self, job: wire.Job) -> None:
        """The job is now like this."""
        parts = [phase_of(job), step_of(job), job.reason or ""]
        self._line(", ".join(part for part in parts if part))

    def _line(self, text: str) -> None:
        if text != self._last:
            self._last = text
            note(text)


def follow(client: GatewayClient, job: wire.Job, shown: Screen) -> wire.Job:
    """Show a job until it has ended.

    Its events are shown as they come; the job itself is asked for what they do not tell, such as
    the time that is left, but not once for each of hundreds of events that lie behind.
    """
    shown.job(job)
    if job.status in wire.TERMINAL_STATUSES:
        return job
    begun = job.started_at or job.created_at
    asked_at = time.monotonic()
    for event in client.events(job.id):
        if isinstance(event, Preview) or event.at < begun or _behind(job, event):
            continue
        if time.monotonic() - asked_at >= _ASK_EVERY_SECONDS:
            job, asked_at = client.get(job.id), time.monotonic()
        else:
            job = told(job, event)
        if job.status in wire.TERMINAL_STATUSES:
            break
        shown.job(job)
    job = client.get(job.id)
    shown.job(job)
    return job


def _behind(job: wire.Job, event: wire.Event) -> bool:
    """Whether an event tells of less progress than is shown: the log is told from its beginning."""
    fraction = event.data.get("fraction")
    return isinstance(fraction, float) and fraction < job.progress.fraction


def told(job: wire.Job, event: wire.Event) -> wire.Job:
    """The job as one of its events leaves it, as far as the event says."""
    data = event.data
    match event.type:
        case "job.queued":
            changes: dict[str, Any] = {"status": "queued", "phase": "waiting_for_turn"}
        case "job.running":
            changes = {"status": "running", "phase": None, "reason": None}
        case "job.phase":
            changes = {"phase": data.get("phase"), "reason": data.get("reason")}
        case "job.progress":
            known = wire.Progress.model_fields
            fresh = {name: value for name, value in data.items() if name in known}
            changes = {"progress": job.progress.model_copy(update=fresh)}
        case "job.succeeded" | "job.failed" | "job.canceled":
            changes = {"status": event.type.removeprefix("job.")}
        case _:
            changes = {}
    return job.model_copy(update=changes)
