"""What has to be downloaded, whether there is room for it, and doing it in parallel."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from app.cli.download import DownloadFailed, Hub, Meter, Remote, Stopped, bytes_left
from app.workflows.models import Found, Needed, look

SPARE_BYTES = 1024**3
"""Left free on the disk, for the database and ComfyUI's outputs."""


@dataclass(frozen=True, slots=True)
class Item:
    """One file and what is to be done about it.

    Attributes:
        needed: The file and who needs it.
        found: What lies there now.
        action: `keep` what is there, `download`, or nothing because of a `problem`.
        remote: What the Hub says of it, where it was asked.
        left_bytes: How much is to come.
        detail: Why, in words; empty where there is nothing to say.
    """

    needed: Needed
    found: Found
    action: Literal["keep", "download", "problem"]
    remote: Remote | None = None
    left_bytes: int = 0
    detail: str = ""


def plan(
    hub: Hub, files: Sequence[Needed], models_dir: Path, *, replace: bool, parallel: int
) -> list[Item]:
    """Decide for each file. Only what cannot be decided here is asked of the Hub.

    Args:
        hub: Where the files are from.
        files: What the workflows need.
        models_dir: ComfyUI's models folder.
        replace: Whether a file of another size may be overwritten.
        parallel: How many questions at once.
    """
    with ThreadPoolExecutor(parallel) as pool:
        return list(pool.map(lambda file: _decide(hub, file, models_dir, replace=replace), files))


def _decide(hub: Hub, file: Needed, models_dir: Path, *, replace: bool) -> Item:
    found = look(models_dir, file.model)
    if found.state == "present" and file.model.verified.size:
        return Item(file, found, "keep")
    try:
        remote = hub.find(file.model)
    except DownloadFailed as error:
        if found.state == "present":
            detail = f"It is there; whether it is whole could not be asked: {error}"
            return Item(file, found, "keep", detail=detail)
        return Item(file, found, "problem", detail=str(error))
    if found.size_bytes == remote.size_bytes:
        return Item(file, found, "keep", remote)
    if found.size_bytes is not None and not replace:
        detail = (
            f"{found.path} has {found.size_bytes:,} bytes, the repository's {remote.size_bytes:,}: "
            "it is unfinished, or another file. Look at it, then run with --replace."
        )
        return Item(file, found, "problem", remote, detail=detail)
    return Item(file, found, "download", remote, bytes_left(found.path, remote))


def short_of_space(items: Sequence[Item], *, spare_bytes: int = SPARE_BYTES) -> list[str]:
    """One sentence for each file system on which the downloads do not fit; empty if they do."""
    wanted: dict[int, int] = {}
    places: dict[int, Path] = {}
    for item in items:
        if item.action != "download":
            continue
        place = next(path for path in item.found.path.parents if path.is_dir())
        device = place.stat().st_dev
        places.setdefault(device, place)
        wanted[device] = wanted.get(device, 0) + item.left_bytes
    short = []
    for device, need in wanted.items():
        free = shutil.disk_usage(places[device]).free
        if need + spare_bytes > free:
            short.append(
                f"{places[device]} has {free / 1e9:.1f} GB free; the downloads need "
                f"{need / 1e9:.1f} GB and {spare_bytes / 1e9:.1f} GB must stay free."
            )
    return short


def run(
    hub: Hub,
    items: Sequence[Item],
    *,
    parallel: int,
    meter_for: Callable[[Item], Meter],
    on_end: Callable[[Item, str | None], None] = lambda _item, _problem: None,
) -> dict[str, str]:
    """Download all that is planned.

    Args:
        hub: Where the files are from.
        items: The plan.
        parallel: How many files at once.
        meter_for: Gives each file its meter.
        on_end: Told of each file at its end, with what went wrong.

    Returns:
        File name to what went wrong, for each that did not arrive.

    Raises:
        KeyboardInterrupt: The operator broke off; what arrived stays for the next time.
    """
    problems: dict[str, str] = {}
    with ThreadPoolExecutor(parallel, thread_name_prefix="download") as pool:
        waiting = {
            pool.submit(_fetch, hub, item, meter_for(item)): item
            for item in items
            if item.action == "download"
        }
        try:
            for done in as_completed(waiting):
                item, problem = waiting[done], done.result()
                if problem is not None:
                    problems[item.needed.model.file] = problem
                on_end(item, problem)
        except KeyboardInterrupt:
            hub.stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    return problems


def _fetch(hub: Hub, item: Item, meter: Meter) -> str | None:
    if item.remote is None:
        raise AssertionError("a download is planned with what the Hub says of it")
    try:
        hub.fetch(item.needed.model, item.remote, item.found.path, meter=meter)
    except DownloadFailed as error:
        return str(error)
    except Stopped:
        return "Broken off; run it again to go on."
    return None
