"""What the parts need of the settings: values, and those parts that an operator may leave out."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from datetime import timedelta
from importlib.metadata import version
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from app.database import Database
from app.errors import Misconfigured
from app.gpu.card import Card
from app.gpu.nvml import cards_of
from app.jobs.follow import Patience
from app.jobs.states import Status
from app.jobs.submission import Bounds
from app.media.limits import MediaLimits
from app.settings import Settings

if TYPE_CHECKING:
    from app.fleet.member import Member
    from app.media.objects import ObjectStorage

VERSION = version("steadydancer-gateway")


def make_data_dir(path: Path) -> None:
    """Make the data directory.

    Raises:
        Misconfigured: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(
            f"The data directory {path} cannot be made: {error.strerror or error}. Name another "
            "with GATEWAY_DATA_DIR."
        ) from error


def cards_of_engines(settings: Settings) -> Sequence[Card] | None:
    """The card of each engine; None where admission looks at none."""
    if settings.admission == "off":
        return None
    return cards_of(settings.gpus, engines=len(settings.comfyui_urls), environ=os.environ)


def member(settings: Settings, db: Database, *, worker: bool) -> Member | None:
    """This process's place among others; None where it is alone with its store."""
    if not settings.is_shared:
        if worker:
            raise Misconfigured(
                "A worker takes its jobs from a store that others share: set GATEWAY_DATABASE_URL "
                "to a PostgreSQL database. `steadydancer serve` runs jobs by itself."
            )
        return None
    from app.fleet.member import Member  # noqa: PLC0415 - its libraries are there only where asked

    return Member(
        db,
        name=settings.worker_name or socket.gethostname(),
        version=VERSION,
        lease=timedelta(seconds=settings.worker_lease_seconds),
        worker=worker,
    )


def media_storage(settings: Settings) -> ObjectStorage | None:
    """The object storage that the settings name; where they name none, nothing is imported.

    Raises:
        Misconfigured: It cannot be used like this.
    """
    if settings.media_url is None:
        return None
    try:
        from app.media.objects import ObjectStorage  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise Misconfigured(
            "GATEWAY_MEDIA_URL needs the extra `objects`: pip install steadydancer-gateway[objects]"
        ) from error
    secret = settings.media_secret_access_key
    return ObjectStorage(
        settings.media_url,
        endpoint=settings.media_endpoint,
        region=settings.media_region,
        access_key_id=settings.media_access_key_id,
        secret_access_key=None if secret is None else secret.get_secret_value(),
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on the host."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bounds(settings: Settings) -> Bounds:
    """What may be asked for."""
    return Bounds(
        max_queued_jobs=settings.max_queued_jobs,
        min_free_bytes=settings.min_free_bytes,
        max_queue_seconds=settings.max_queue_seconds,
        max_run_seconds=settings.max_run_seconds,
    )


def keep_by_status(settings: Settings) -> dict[str, timedelta]:
    """How long finished jobs are kept, for each status that has a time of its own."""
    asked = {
        Status.SUCCEEDED: settings.keep_succeeded_seconds,
        Status.FAILED: settings.keep_failed_seconds,
        Status.CANCELED: settings.keep_canceled_seconds,
    }
    return {
        status: timedelta(seconds=seconds)
        for status, seconds in asked.items()
        if seconds is not None
    }


def patience(settings: Settings) -> Patience:
    """How long a run may be silent."""
    return Patience(
        quiet=settings.quiet_seconds,
        stall=settings.stall_seconds,
        stall_loading=settings.stall_loading_seconds,
        run=settings.max_run_seconds,
        interrupt=settings.interrupt_seconds,
    )


def media_limits(settings: Settings) -> MediaLimits:
    """What may be decoded."""
    return MediaLimits(
        max_bytes=settings.max_upload_bytes,
        max_image_pixels=settings.max_pixels,
        max_duration_seconds=settings.max_video_seconds,
        max_frames=settings.max_video_frames,
    )
