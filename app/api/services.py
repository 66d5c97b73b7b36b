"""What the endpoints need, built and opened by `app/main.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from app.access.authenticator import Authenticator
from app.access.limits import Limiter
from app.database import Database
from app.jobs.feed import Feed
from app.jobs.janitor import Retention
from app.jobs.stations import Stations
from app.jobs.submission import Submission
from app.media.intake import Intake
from app.media.store import BlobStore
from app.telemetry import Metrics
from app.workflows.registry import Registry

if TYPE_CHECKING:
    from app.jobs.overflow import Overflow

DASHBOARD = Path(__file__).with_name("dashboard")
"""The page that ships with the gateway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """How much one call may send, and how long it may take to send it.

    Attributes:
        max_body_bytes: Largest JSON body.
        max_upload_bytes: Largest media file.
        body_idle_seconds: Longest silence while a body arrives.
        max_wait_seconds: Longest `?wait=`.
        heartbeat_seconds: An event stream says something at least this often.
    """

    max_body_bytes: int = 1 << 20
    max_upload_bytes: int = 2 << 30
    body_idle_seconds: float = 30.0
    max_wait_seconds: float = 60.0
    heartbeat_seconds: float = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything the endpoints use. Nothing of it is opened or closed by them.

    Attributes:
        db: The store.
        workflows: The installed workflows.
        intake: Where uploads come in.
        store: The bytes of artifacts.
        feed: Wake-ups of long polls and event streams.
        stations: The engines.
        overflow: The serverless endpoint that takes what waits too long, where there is one.
        submission: Turns requests into jobs; it must know the same stations.
        authenticator: From a credential to a caller.
        limiter: Rates and quotas of keys.
        metrics: What `/metrics` shows.
        retention: How long what is kept; shown in `/v1/system`.
        limits: Of single calls.
        loopback: Whether the gateway listens on loopback only: then no key is needed for as long
            as none exists.
        wake_deliveries: Has the webhook loop look for due messages now.
        free_bytes: Free bytes of the disk that holds the store.
        min_free_bytes: Free disk below which the gateway is not ready.
        stopping: Set when the gateway begins to stop: long polls and streams then end. Call
            `feed.publish_all()` after setting it.
        version: The gateway's version.
        now: The time, UTC.
        cors_origins: Origins whose pages may call from a browser.
        redirect_media: Whether media in object storage are fetched there, by links that end.
        media_origin: Gives the origin of such links, for the dashboard's policy; None without.
        public_url: Base URL under which people reach the gateway, if known; with https the
            session cookie is sent over TLS only.
        dashboard: Folder of the dashboard's files; None or absent serves none.
    """

    db: Database
    workflows: Registry
    intake: Intake
    store: BlobStore
    feed: Feed
    stations: Stations
    submission: Submission
    authenticator: Authenticator
    limiter: Limiter
    metrics: Metrics
    retention: Retention
    limits: HttpLimits
    loopback: bool
    wake_deliveries: Callable[[], None]
    free_bytes: Callable[[], int]
    min_free_bytes: int
    stopping: asyncio.Event
    version: str
    now: Callable[[], datetime]
    cors_origins: Sequence[str] = ()
    redirect_media: bool = False
    media_origin: Callable[[], Awaitable[str]] | None = None
    public_url: str | None = None
    overflow: Overflow | None = None
    dashboard: Path | None = DASHBOARD
