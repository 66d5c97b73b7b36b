"""What is to be sent, written in the transaction that makes it true."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from sqlmodel import Session
from uuid_utils import compat as uuids

from app.webhooks.tables import WebhookMessage

KEEP_TRYING = timedelta(hours=24)
"""How long a message is tried before it is given up."""


def enqueue(
    session: Session,
    *,
    job_id: str,
    owner: str | None,
    url: str,
    event_type: str,
    payload: dict[str, Any],
    now: datetime,
    trace: Mapping[str, str] | None = None,
) -> None:
    """Add a message to the caller's transaction: sent if and only if that commits.

    The payload is serialized here, once: every try sends and signs these very bytes.

    Args:
        session: The caller's open write transaction.
        job_id: The job it is about.
        owner: API key whose secret signs it; None for the loopback caller.
        url: Where to. It is vetted when it is sent, because what a name resolves to changes.
        event_type: Such as `job.succeeded`.
        payload: JSON object, the body of the message.
        now: Time of the change.
        trace: Trace headers of the job; each try is a span of its own in that trace.
    """
    session.add(
        WebhookMessage(
            id=f"msg_{uuids.uuid7().hex}",
            job_id=job_id,
            owner=owner,
            url=url,
            target=target_of(url),
            event_type=event_type,
            payload=json.dumps(payload, separators=(",", ":")),
            trace=dict(trace) if trace is not None else None,
            created_at=now,
            give_up_at=now + KEEP_TRYING,
            next_attempt_at=now,
        )
    )


def target_of(url: str) -> str:
    """Scheme, host and port of a URL, in lower case: messages to one target share its limits."""
    try:
        parts = urlsplit(url)
    except ValueError:  # a URL that no request can be sent to is refused when it is tried
        return url.lower()
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}".lower()
