"""The whole examination of one machine under one set of settings."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import httpx

from app.database import Database
from app.doctor import engine, machine, store
from app.doctor.finding import Finding
from app.doctor.machine import Holder
from app.gpu.card import Card
from app.parts import is_loopback
from app.schema import revisions
from app.settings import Settings
from app.workflows.manifest import ManifestError
from app.workflows.registry import load_workflows

_DRIVER_FILE = Path("/proc/driver/nvidia/version")


def driver_text() -> str | None:
    """What the NVIDIA driver tells of itself; None where none is loaded."""
    return _DRIVER_FILE.read_text(encoding="utf-8") if _DRIVER_FILE.is_file() else None


async def examine(
    settings: Settings,
    *,
    find_cards: Callable[[], Sequence[Card]],
    now: Callable[[], datetime],
    driver_text: str | None,
) -> list[Finding]:
    """Look at everything; nothing is changed.

    Args:
        settings: Those that the gateway would start with.
        find_cards: Finds the card of each engine; raises `CardUnreadable` where there is none.
        now: The clock.
        driver_text: What the NVIDIA driver tells of itself; None where there is none.
    """
    found = [
        machine.driver(driver_text),
        *machine.cards(find_cards, admission=settings.admission),
    ]
    found += await _workflows(settings)
    found += _disks(settings)
    holder = await port_holder(settings.host, settings.port)
    found.append(machine.port(settings.host, settings.port, holder))
    path = Database(settings.store_url).path
    known = revisions(settings.migrations_dir)
    if path is not None:
        stored = store.look(path, known)
    else:
        stored = await asyncio.to_thread(store.look_at_server, settings.store_url, known)
    found += stored.findings
    found.append(machine.clock(now(), stored.newest))
    found.append(
        store.reachable(
            settings.host,
            loopback=is_loopback(settings.host),
            admin_keys=stored.admin_keys,
            makes_key=settings.make_first_key,
        )
    )
    return found


async def _workflows(settings: Settings) -> list[Finding]:
    try:
        registry = load_workflows(settings.workflows_dir, overrides=settings.workflow_overrides)
    except ManifestError as error:
        advice = "Set it right (docs/workflows.md); the gateway does not start like this."
        return [Finding("workflows", "fail", str(error), advice)]
    found = await engine.engines(
        settings.comfyui_urls,
        tuple(registry),
        models_dir=settings.models_path,
        max_upload_bytes=settings.max_upload_bytes,
    )
    for workflow in registry:
        found += engine.manifest(workflow, settings.models_path)
    return found


def _disks(settings: Settings) -> list[Finding]:
    places = {"data": settings.data_dir, "models": settings.models_path}
    found = []
    for name, place in places.items():
        if place is None:
            continue
        here = next(path for path in (place, *place.absolute().parents) if path.is_dir())
        free = shutil.disk_usage(here).free
        needed = settings.min_free_bytes if name == "data" else 0
        found.append(machine.disk(name, str(place), free, needed_bytes=needed))
    return found


async def port_holder(host: str, port: int) -> Holder:
    """Who listens there: nobody, a gateway, or something else."""
    if port == 0:
        return "nobody"
    near = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104 - to be asked
    try:
        async with httpx.AsyncClient(timeout=3.0, trust_env=False) as client:
            answer = await client.get(f"http://{near}:{port}/healthz")
            told = answer.json()
    except httpx.ConnectError:
        return "nobody"
    except (httpx.HTTPError, ValueError):
        return "other"
    return "gateway" if isinstance(told, dict) and told.get("status") == "ok" else "other"
