"""An endpoint of RunPod Serverless that answers as RunPod documents.

Made from https://docs.runpod.io (operation reference, job states, send requests) as of August 2026:
from documentation, not recorded of a real endpoint. What is said of a job is for the test to say.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "rp-key"


@dataclass
class FakeEndpoint:
    """What the endpoint is told to say, and what it was asked.

    Attributes:
        url: As GATEWAY_SERVERLESS_URL.
        sent: Body of every `/run`.
        said: Id to what `/status` says of it beside the id.
        canceled: Ids for which `/cancel` came.
        next: What is said of the next job.
        run_status: Status of the answer to `/run`; 0 loses the answer.
        looks: How often `/health` was asked.
    """

    url: str = ""
    sent: list[dict[str, Any]] = field(default_factory=list)
    said: dict[str, dict[str, Any]] = field(default_factory=dict)
    canceled: list[str] = field(default_factory=list)
    next: dict[str, Any] = field(default_factory=lambda: {"status": "IN_QUEUE"})
    run_status: int = 200
    looks: int = 0

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """The answer to a call."""
        verb, _, job_id = path.removeprefix("/v2/test/").partition("/")
        match method, verb:
            case "GET", "health":
                self.looks += 1
                jobs = {"completed": 1, "failed": 5, "inProgress": 0, "inQueue": 2, "retried": 0}
                return 200, {"jobs": jobs, "workers": {"idle": 0, "running": 0}}
            case "POST", "run":
                self.sent.append(json.loads(body))
                job_id = f"eaebd6e7-6a92-4bb8-a911-{len(self.said):012}-u1"
                self.said[job_id] = dict(self.next)
                return self.run_status, {"id": job_id, "status": "IN_QUEUE"}
            case "GET", "status" if job_id in self.said:
                times = {"delayTime": 31618, "executionTime": 1437}
                return 200, {**times, "id": job_id, **self.said[job_id]}
            case "POST", "cancel" if job_id in self.said:
                self.canceled.append(job_id)
                self.said[job_id] = {"status": "CANCELLED"}
                return 200, {"id": job_id, "status": "CANCELLED"}
        return 404, {}

    def say(self, **said: Any) -> None:
        """Say this of the last job from now on."""
        self.said[list(self.said)[-1]] = said


@contextmanager
def fake_endpoint() -> Iterator[FakeEndpoint]:
    """Serve one on loopback."""
    fake = FakeEndpoint()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status: int = 401
            answer: dict[str, Any] = {}
            if self.headers.get("Authorization") == f"Bearer {KEY}":
                status, answer = fake.answer(self.command, self.path, body)
            if status == 0:
                self.close_connection = True
                return
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET  # noqa: N815 - the library's name

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_port}/v2/test"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield fake
    server.shutdown()
    server.server_close()
    thread.join(5)


def completed(video: bytes) -> dict[str, Any]:
    """What is said of a job that our handler ended well."""
    return {
        "status": "COMPLETED",
        "output": {
            "job": {"status": "succeeded", "usage": {"gpu_seconds": 12.5, "peak_vram_mib": 9000}},
            "video": {
                "media_type": "video/mp4",
                "bytes": len(video),
                "sha256": hashlib.sha256(video).hexdigest(),
                "base64": base64.b64encode(video).decode(),
            },
        },
    }
