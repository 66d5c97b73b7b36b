"""The machine: card, driver, disk, ports, clock. What was measured comes in, findings come out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Literal

from app.doctor.finding import Finding
from app.gpu.card import Card, CardUnreadable

Holder = Literal["nobody", "gateway", "other"]
"""Who listens on a port."""

_OLDEST_DRIVER = 525
"""Of CUDA 12 (CUDA compatibility guide, minor version compatibility)."""

_ROOMY_BYTES = 10 * 1024**3
_BUILT = 2026
_SKEW = timedelta(minutes=1)
_DRIVER = re.compile(r"Kernel Module(?: for \S+)?\s+(\d+)\.(\S+)")


def cards(find: Callable[[], Sequence[Card]], *, admission: str) -> list[Finding]:
    """Whether there is a card for each engine, and NVML reads it.

    Args:
        find: Finds the card of each engine.
        admission: The setting.
    """
    if admission == "off":
        detail = "Admission is off: jobs start without a look at the card."
        return [Finding("gpu", "skip", detail, "Set GATEWAY_ADMISSION=nvml where there is a GPU.")]
    try:
        found = find()
    except CardUnreadable as error:
        return [Finding("gpu", "fail", error.detail, error.advice)]
    return [_card(f"gpu {number}", card) for number, card in enumerate(found)]


def _card(name: str, card: Card) -> Finding:
    try:
        seen = card.read()
    except CardUnreadable as error:
        return Finding(name, "fail", error.detail, error.advice)
    detail = (
        f"{seen.name} ({seen.uuid}), {seen.free_mib:,} of {seen.capacity_mib:,} MiB free, "
        f"{len(seen.processes)} processes named by the driver."
    )
    return Finding(name, "ok", detail)


def driver(version_text: str | None) -> Finding:
    """Whether the NVIDIA driver is new enough.

    Args:
        version_text: `/proc/driver/nvidia/version`; None where there is no such file.
    """
    if version_text is None:
        return Finding("driver", "skip", "No NVIDIA driver is loaded here.")
    told = _DRIVER.search(version_text)
    if told is None:
        return Finding("driver", "warn", "The NVIDIA driver does not tell its version.")
    version = f"{told[1]}.{told[2]}"
    if int(told[1]) < _OLDEST_DRIVER:
        advice = f"Update the host's driver to {_OLDEST_DRIVER} or newer: CUDA 12 needs it."
        return Finding("driver", "fail", f"The NVIDIA driver is {version}.", advice)
    return Finding("driver", "ok", f"NVIDIA driver {version}.")


def disk(name: str, place: str, free_bytes: int, *, needed_bytes: int) -> Finding:
    """Whether a disk has room.

    Args:
        name: What lies there.
        place: Where.
        free_bytes: Free space.
        needed_bytes: Below it the gateway takes no jobs.
    """
    detail = f"{place}: {free_bytes / 1e9:.1f} GB free."
    if free_bytes < needed_bytes:
        advice = "Free space there; new jobs are refused with 507 until then."
        return Finding(f"disk {name}", "fail", detail, advice)
    if free_bytes < _ROOMY_BYTES:
        advice = "Free space, or lower GATEWAY_KEEP_BYTES or GATEWAY_KEEP_SECONDS."
        return Finding(f"disk {name}", "warn", detail, advice)
    return Finding(f"disk {name}", "ok", detail)


def port(host: str, number: int, holder: Holder) -> Finding:
    """Whether the gateway's port is free, or the gateway's."""
    name = f"port {number}"
    if number == 0:
        return Finding("port", "skip", "A free port is taken at each start.")
    if holder == "nobody":
        return Finding(name, "ok", f"{host}:{number} is free; the gateway does not run.")
    if holder == "gateway":
        return Finding(name, "ok", f"The gateway answers on {host}:{number}.")
    advice = f"Stop it (`ss -ltnp 'sport = :{number}'` names it), or set GATEWAY_PORT."
    return Finding(name, "fail", f"Something else holds {host}:{number}.", advice)


def clock(now: datetime, newest: datetime | None) -> Finding:
    """Whether the clock can be right.

    Args:
        now: The time, UTC.
        newest: Time of the newest row of the store.
    """
    advice = "Set the clock (`timedatectl set-ntp true`): deadlines and retention depend on it."
    shown = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    if now.year < _BUILT:
        return Finding("clock", "fail", f"It is {shown}, before this was made.", advice)
    if newest is not None and newest > now + _SKEW:
        behind = f"{(newest - now).total_seconds():,.0f} s"
        detail = f"It is {shown}, and the newest job was made {behind} later."
        return Finding("clock", "fail", detail, advice)
    return Finding("clock", "ok", f"{shown}. All times are UTC, whatever the time zone.")
