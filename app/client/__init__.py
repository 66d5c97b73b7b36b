"""The Python client of the gateway: sync and async, typed, with retries that are safe.

    from app.client import GatewayClient, JobRequest

    with GatewayClient("http://127.0.0.1:8000") as gateway:
        job = gateway.submit(
            JobRequest(request={"prompt": "a person is dancing"}),
            files={"reference_image": "me.jpg", "driving_video": "dance.mp4"},
        )
        job = gateway.wait(job.id)
        gateway.download(job.id, "me-dancing.mp4")

Imports nothing of the gateway but the wire models.
"""

from __future__ import annotations

from app.client.asynchronous import AsyncGatewayClient
from app.client.calls import Preview, Retry
from app.client.errors import (
    ClientError,
    DownloadFailed,
    GatewayProblem,
    GatewayUnreachable,
    InvalidArgument,
    WaitTimedOut,
)
from app.client.synchronous import GatewayClient
from app.wire import JobRequest

__all__ = [
    "AsyncGatewayClient",
    "ClientError",
    "DownloadFailed",
    "GatewayClient",
    "GatewayProblem",
    "GatewayUnreachable",
    "InvalidArgument",
    "JobRequest",
    "Preview",
    "Retry",
    "WaitTimedOut",
]
