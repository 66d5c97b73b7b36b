"""Tables and the view of the whole, for terminals and for pipes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain, islice

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from app import wire
from app.cli.live import eta_of, phase_of, step_of
from app.cli.output import duration, note_failure, say_line, size
from app.client import GatewayClient, GatewayUnreachable

_EVERY_SECONDS = 1.0
_ROWS = 20
_PAGE = 200
_BAR = 16
_ID = 36
_TIME = 6
_PIPED_WIDTH = 200
_ROOM_FOR_PROMPT = 110
"""Columns of a terminal below which a table of jobs leaves the prompts out."""

_COLORS = {"succeeded": "green", "failed": "red", "canceled": "yellow", "running": "cyan"}


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:
        # What is piped is searched and cut by columns, not looked at: nothing is left out.
        console.width = max(console.width, _PIPED_WIDTH)
    return console


# --- one job -------------------------------------------------------------------------------------


def show_job(job: wire.Job) -> None:
    """Print a job for people."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    rows: list[tuple[str, str | None]] = [
        ("job", job.id),
        ("status", _state(job)),
        ("workflow", job.workflow),
        ("key", job.key_id),
        ("progress", f"{job.progress.fraction:.0%}" if job.status == "running" else None),
        ("ETA", eta_of(job) or None),
        ("ahead", str(job.queue_position) if job.queue_position is not None else None),
        ("reason", job.reason),
        ("waiting", job.waiting.detail if job.waiting else None),
        ("attempt", str(job.attempt) if job.attempt > 1 else None),
        ("created", _when(job.created_at)),
        ("started", _when(job.started_at)),
        ("ended", _when(job.finished_at)),
        ("GPU time", duration(job.usage.gpu_seconds) if job.usage.gpu_seconds else None),
        ("peak VRAM", f"{job.usage.peak_vram_mib:,} MiB" if job.usage.peak_vram_mib else None),
        *((f"label {name}", value) for name, value in job.metadata.items()),
        *((f"  {name}", str(value)) for name, value in job.request.items()),
        *((f"made {one.name}", _artifact(one)) for one in job.artifacts),
        *(("warning", text) for text in job.warnings),
    ]
    for name, text in rows:
        if text is not None:
            table.add_row(name, Text(text))
    _console().print(table)
    note_failure(job)


def _artifact(made: wire.Artifact) -> str:
    facts = [size(made.bytes), made.media_type]
    if made.width is not None:
        facts.append(f"{made.width} x {made.height}")
    if made.frames is not None and made.fps is not None:
        facts.append(f"{made.frames} frames at {made.fps:g} per second")
    return ", ".join(facts)


def _state(job: wire.Job) -> str:
    return job.status if phase_of(job) == job.status else f"{job.status}, {phase_of(job)}"


def _when(at: datetime | None) -> str | None:
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z") if at is not None else None


# --- several jobs --------------------------------------------------------------------------------


def show_jobs(jobs: Sequence[wire.Job]) -> None:
    """Print a table of jobs."""
    console = _console()
    if not jobs:
        console.print("No jobs.")
        return
    console.print(_table(jobs))


def _table(jobs: Iterable[wire.Job]) -> Table:
    roomy = _console().width >= _ROOM_FOR_PROMPT
    gap = (0, 2 if roomy else 1, 0, 0)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=gap)
    table.add_column("job", no_wrap=True, min_width=_ID)
    table.add_column("status", overflow="ellipsis", no_wrap=True, max_width=None if roomy else 14)
    table.add_column(
        "progress", overflow="ellipsis", no_wrap=True, max_width=2 * _BAR if roomy else 12
    )
    table.add_column("ETA", justify="right", no_wrap=True, min_width=_TIME)
    table.add_column("age", justify="right", no_wrap=True, min_width=_TIME)
    if roomy:
        table.add_column("prompt", overflow="ellipsis", no_wrap=True, ratio=1)
    now = datetime.now(UTC)
    for job in jobs:
        cells: list[RenderableType] = [
            job.id,
            Text(phase_of(job), style=_COLORS.get(job.status, "")),
            _bar(job),
            eta_of(job),
            duration((now - job.created_at).total_seconds()),
        ]
        if roomy:
            cells.append(Text(str(job.request.get("prompt", job.workflow))))
        table.add_row(*cells)
    return table


def _bar(job: wire.Job) -> RenderableType:
    if job.status == "failed" and job.error is not None:
        return Text(job.error.type, style="red")
    if job.status != "running":
        return Text(job.reason or "", overflow="ellipsis", no_wrap=True)
    step = step_of(job)
    return Text(step) if step else ProgressBar(1.0, job.progress.fraction, width=_BAR)


class _Watched:
    """Jobs that are looked at until all have ended; without ids, all that have not ended yet."""

    def __init__(self, client: GatewayClient, job_ids: Sequence[str]) -> None:
        self.known: dict[str, wire.Job] = {}
        self._client = client
        self._ids = job_ids

    def look(self) -> None:
        """Ask how they are now."""
        known, client = self.known, self._client
        if self._ids:
            open_ = [one for one in self._ids if one not in known or not _ended(known[one])]
            known.update((one, client.get(one)) for one in open_)
            return
        listed = client.list(status=("queued", "running"), page_size=_PAGE)
        now = {job.id: job for job in listed}
        gone = [one for one, job in known.items() if not _ended(job) and one not in now]
        known.update((one, client.get(one)) for one in gone)
        known.update(now)

    def done(self) -> bool:
        """Whether all have ended."""
        return all(_ended(job) for job in self.known.values())


def watch_jobs(client: GatewayClient, job_ids: Sequence[str]) -> list[wire.Job]:
    """Show jobs until all have ended, and give them. Without ids, all that have not ended yet."""
    watched = _Watched(client, job_ids)

    def look() -> RenderableType:
        watched.look()
        known = watched.known
        return _shown(known.values(), len(known)) if known else Text("No job is waiting.")

    _keep_up(look, watched.done)
    return list(watched.known.values())


def print_changes(client: GatewayClient, job_ids: Sequence[str]) -> list[wire.Job]:
    """Print each job as a line of JSON, again whenever it changed, until all have ended."""
    watched = _Watched(client, job_ids)
    printed: dict[str, wire.Job] = {}
    watched.look()
    while True:
        for name, job in watched.known.items():
            if printed.get(name) != job:
                printed[name] = job
                say_line(job)
        if watched.done():
            return list(watched.known.values())
        time.sleep(_EVERY_SECONDS)
        watched.look()


def _shown(jobs: Iterable[wire.Job], total: int) -> RenderableType:
    """The first jobs of many: what runs, what waits in its order, then what has ended."""
    first = sorted(jobs, key=_rank)[:_ROWS]
    if total <= len(first):
        return _table(first)
    return Group(_table(first), Text(f"and {total - len(first):,} more", style="dim"))


def _rank(job: wire.Job) -> tuple[int, int]:
    if job.status == "running":
        return 0, int(job.started_at is None)
    return (2, 0) if _ended(job) else (1, job.queue_position or 0)


def _ended(job: wire.Job) -> bool:
    return job.status in wire.TERMINAL_STATUSES


# --- the whole -----------------------------------------------------------------------------------


def show_system(client: GatewayClient, *, keep: bool) -> None:
    """Print GPU, engine, queue and the jobs that have not ended; keep it up if asked."""

    def look() -> RenderableType:
        system = client.system()
        running = client.list(status=("running",), page_size=_ROWS)
        waiting = client.list(order="queue", page_size=_ROWS)
        jobs = list(islice(chain(running, waiting), _ROWS))
        shown = _shown(jobs, system.queue.running + system.queue.queued)
        return Group(*_system(system), Text(), shown if jobs else Text("No job is waiting."))

    if keep:
        with suppress(KeyboardInterrupt):  # how one leaves a view that stays up
            _keep_up(look, lambda: False)
    else:
        _console().print(look())


def _system(system: wire.System) -> Iterable[RenderableType]:
    queue = system.queue
    oldest = queue.oldest_queued_seconds
    age = f", the oldest for {duration(oldest)}" if oldest is not None else ""
    brake = " · DRAINING: no job is started" if system.draining else ""
    counts = f"{queue.running} running · {queue.queued} queued{age}"
    yield Text(f"steadydancer {system.version} · {counts}{brake}")
    store = system.store
    outside = f" ({size(store.object_bytes)} in object storage)" if store.object_bytes else ""
    yield Text(
        f"store {size(store.database_bytes)}, media {size(store.media_bytes)}{outside}, "
        f"{size(store.free_disk_bytes)} free on the disk",
        style="dim",
    )
    for engine in system.engines:
        version = f" {engine.version}" if engine.version else ""
        detail = f": {engine.detail}" if engine.detail else ""
        yield Text(f"{engine.name} · ComfyUI{version} {engine.state}{detail}")
        if engine.gpu is not None:
            yield from _gpu(engine.gpu)
        if engine.gpu_problem is not None:
            yield Text(f"  GPU: {engine.gpu_problem}", style="red")
        yield Text(f"  admission: {engine.admission}")


def _gpu(gpu: wire.GpuView) -> Iterable[RenderableType]:
    used = gpu.total_mib - gpu.free_mib
    facts = [f"{used:,} of {gpu.total_mib:,} MiB"]
    if gpu.engine_mib is not None and gpu.others_mib is not None:
        facts.append(f"ComfyUI {gpu.engine_mib:,}, others {gpu.others_mib:,}")
    if gpu.utilization_percent is not None:
        facts.append(f"{gpu.utilization_percent} % busy")
    if gpu.temperature_celsius is not None:
        facts.append(f"{gpu.temperature_celsius} °C")
    line = Table.grid(padding=(0, 1))
    line.add_row(
        f"  {gpu.name}", ProgressBar(gpu.total_mib, used, width=2 * _BAR), " · ".join(facts)
    )
    yield line


def _keep_up(look: Callable[[], RenderableType], done: Callable[[], bool]) -> None:
    """Keep a view up. A gateway that is away is said, and looked for again."""
    with Live(look(), console=_console(), auto_refresh=False) as live:
        while not done():
            time.sleep(_EVERY_SECONDS)
            try:
                shown = look()
            except GatewayUnreachable as error:
                shown = Text(str(error), style="red")
            live.update(shown, refresh=True)
