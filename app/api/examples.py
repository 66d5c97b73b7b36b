"""Examples that the OpenAPI page shows, and that the tests send."""

from __future__ import annotations

from typing import Any

JOB_ID = "019ab0c2-7d4e-7c11-9f3a-2b6d5e8f1a40"
UPLOAD_ID = "019ab0c1-0a52-7f0e-8d11-6a1f0c3b9e77"

JOB_REQUEST: dict[str, Any] = {
    "uploads": {
        "workflow": "steadydancer",
        "request": {
            "reference_image": {"upload_id": UPLOAD_ID},
            "driving_video": {"upload_id": "019ab0c1-1f3c-7a44-b2f6-0e9d5c7a8b21"},
            "prompt": "a person dancing on a stage, studio light",
            "preset": "480p",
            "frames": 81,
        },
        "metadata": {"name": "first-try"},
    },
    "urls": {
        "workflow": "steadydancer",
        "request": {
            "reference_image": {"url": "https://example.com/me.png"},
            "driving_video": {"url": "https://example.com/dance.mp4"},
            "prompt": "a person dancing in the rain",
            "seed": 42,
        },
        "priority": 10,
        "webhook": {"url": "https://example.com/hooks/video", "events": ["job.succeeded"]},
    },
}

RERUN: dict[str, Any] = {
    "same": {},
    "another_seed": {"overrides": {"seed": None}},
    "longer": {"overrides": {"frames": 81, "prompt": "a person dancing in the snow"}},
}

ESTIMATE: dict[str, Any] = {
    "plain": {"request": {"prompt": "a person dancing", "preset": "720p", "frames": 81}}
}

KEY: dict[str, Any] = {"client": {"name": "dashboard", "scopes": ["submit", "read"]}}
