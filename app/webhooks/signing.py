"""The headers that Standard Webhooks prescribes.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook


def headers(
    message_id: str, payload: str, secrets: Sequence[str], *, now: datetime
) -> dict[str, str]:
    """Headers of one try: id, time of the try, and a signature by each secret.

    Args:
        message_id: The same in every try.
        payload: The exact text of the body.
        secrets: In the form `whsec_…`; at least one.
        now: Time of the try, aware.
    """
    # The library reads the wall clock off the value it is given and takes it for UTC.
    at = now.astimezone(UTC)
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(
            Webhook(secret).sign(message_id, at, payload) for secret in secrets
        ),
    }
