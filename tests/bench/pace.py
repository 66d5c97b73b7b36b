"""The time a job takes beside the engine's: between jobs, around one job, to cancel, to tell."""

from __future__ import annotations

import itertools
import threading
import time
from datetime import datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Self

import httpx

from tests.bench.kit import Lab, Served, dance, runs, smoke
from tests.bench.table import Goal, Row, ms_of, percentile
from tests.chaos.processes import Engine, until


def idle_rows(lab: Lab) -> list[Row]:
    """GPU idle between queued jobs: with the shortest jobs there are, and with longer ones."""
    found = []
    for said, step, long in (("no work", "0", False), ("0.05 s a step", "0.05", True)):
        with lab.engine("--step-seconds", step) as engine, lab.gateway(engine.url) as served:
            uploads = served.uploads()
            body = dance(uploads) if long else smoke(uploads)
            served.succeeded([served.submit(body)])  # the media are prepared once
            ours, graphs, lasted = _through_gateway(engine, served, body, lab.sizes.queued)
            theirs = _straight(engine, graphs)
        kind = "steadydancer" if long else "smoke"
        goal = Goal("p50 ≤ 5 ms, p99 ≤ 25 ms", _under(ours, 0.5, 5) and _under(ours, 0.99, 25))
        found.append(
            Row(
                name=f"GPU idle between {lab.sizes.queued} queued {kind} jobs, {said}",
                figure=ms_of(ours),
                versus="the engine's own queue",
                versus_figure=ms_of(theirs),
                goal=goal,
                note=f"A job takes the engine {percentile(lasted, 0.5) * 1000:.0f} ms (p50).",
            )
        )
    return found


def _under(seconds: list[float], share: float, ms: float) -> bool:
    return percentile(seconds, share) * 1000 <= ms


def _through_gateway(
    engine: Engine, served: Served, body: dict[str, Any], jobs: int
) -> tuple[list[float], list[dict[str, Any]], list[float]]:
    """Queue jobs, let them run: the gaps, the graphs, and how long each ran. In seconds."""
    before = set(runs(engine))
    served.json("POST", "/v1/system/drain")
    ids = [served.submit(body) for _ in range(jobs)]
    served.json("POST", "/v1/system/resume")
    served.succeeded(ids)
    graphs = [served.json("GET", f"/v1/jobs/{one}/artifacts/graph") for one in ids]
    stamps = [seen for prompt, seen in runs(engine).items() if prompt not in before]
    return _gaps(stamps), graphs, [seen["ended"] - seen["started"] for seen in stamps]


def _straight(engine: Engine, graphs: list[dict[str, Any]]) -> list[float]:
    """The gaps between the same graphs, all in the engine's own queue. In seconds."""
    before = set(runs(engine))
    with httpx.Client(base_url=engine.url) as client:
        for graph in graphs:
            client.post("/prompt", json={"prompt": graph}).raise_for_status()
        until(
            lambda: client.get("/prompt").json()["exec_info"]["queue_remaining"] == 0,
            seconds=120,
            what="the engine's queue is empty",
        )
    return _gaps([seen for prompt, seen in runs(engine).items() if prompt not in before])


def _gaps(stamps: list[dict[str, float]]) -> list[float]:
    ordered = sorted(stamps, key=lambda seen: seen["started"])
    return [
        max(0.0, later["started"] - earlier["ended"])
        for earlier, later in itertools.pairwise(ordered)
    ]


def added_rows(lab: Lab) -> list[Row]:
    """What the gateway adds to a job that comes alone: submit to `succeeded`, less the engine."""
    added = []
    with lab.engine() as engine, lab.gateway(engine.url) as served:
        uploads = served.uploads()
        served.succeeded([served.submit(smoke(uploads))])
        took = []
        for _ in range(lab.sizes.singles):
            before = set(runs(engine))
            began = time.monotonic()
            job = served.ended(served.submit(smoke(uploads)))
            seconds = time.monotonic() - began
            assert job["status"] == "succeeded", job
            (stamps,) = [seen for prompt, seen in runs(engine).items() if prompt not in before]
            took.append(seconds)
            added.append(seconds - (stamps["ended"] - stamps["started"]))
    return [
        Row(
            name="added to a job: submit to succeeded, video stored, less the engine's time",
            figure=ms_of(added, 0.9),
            versus="all of it",
            versus_figure=ms_of(took, 0.9),
            goal=Goal("p50 ≤ 30 ms", _under(added, 0.5, 30)),
            note="One job at a time; seen by a client in long polls; uploads and prepared media "
            "were there already.",
        )
    ]


def cancel_rows(lab: Lab) -> list[Row]:
    """From a call to cancel until the engine stops the prompt, and until the call is answered."""
    stopped, answered = [], []
    with (
        lab.engine("--history-lag-seconds", "0") as engine,
        lab.gateway(engine.url) as served,
    ):
        uploads = served.uploads()
        for _ in range(lab.sizes.cancels):
            engine.misbehave("hang", times=1)
            before = set(runs(engine))
            job_id = served.submit(smoke(uploads))
            prompt = until(
                partial(_new, engine, before, "started"),
                seconds=20,
                what="the job runs",
            )
            began = time.monotonic()
            served.json("POST", f"/v1/jobs/{job_id}/cancel")
            answered.append(time.monotonic() - began)
            until(partial(_has_ended, engine, prompt), seconds=20, what="it stops")
            stopped.append(runs(engine)[prompt]["ended"] - began)
    return [
        Row(
            name="cancel of a running job to the engine's stop",
            figure=ms_of(stopped),
            versus="the call's answer (canceled)",
            versus_figure=ms_of(answered),
            goal=Goal("≤ 100 ms (p99)", _under(stopped, 0.99, 100)),
            note="The stand-in looks for an interrupt every 10 ms, which is part of it.",
        )
    ]


def _has_ended(engine: Engine, prompt: str) -> bool:
    return "ended" in runs(engine)[prompt]


def _new(engine: Engine, known: set[str], event: str) -> str | None:
    """A prompt that was not known before and has come so far."""
    for prompt, seen in runs(engine).items():
        if prompt not in known and event in seen:
            return prompt
    return None


def webhook_rows(lab: Lab) -> list[Row]:
    """From a job's end to the arrival of its webhook."""
    with (
        _Receiver() as receiver,
        lab.engine() as engine,
        lab.gateway(engine.url, GATEWAY_ALLOW_HOSTS="127.0.0.1") as served,
    ):
        uploads = served.uploads()
        hook = {"url": receiver.url, "events": ["job.succeeded"]}
        delays = []
        for number in range(lab.sizes.singles):
            job = served.ended(served.submit(smoke(uploads, webhook=hook)))
            until(
                partial(receiver.has, number + 1),
                seconds=30,
                what="the webhook arrives",
            )
            end = datetime.fromisoformat(job["finished_at"]).timestamp()
            delays.append(receiver.arrived[number] - end)
    return [
        Row(
            name="webhook: succeeded to arrival",
            figure=ms_of(delays),
            note="From the job's `finished_at`, so that the commit is part of it.",
        )
    ]


class _Receiver:
    """Notes when something is posted to it, by the wall clock."""

    def __init__(self) -> None:
        self.arrived: list[float] = []
        arrived = self.arrived

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                now = time.time()
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(204)
                self.end_headers()
                arrived.append(now)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def has(self, count: int) -> bool:
        """Whether so many have arrived."""
        return len(self.arrived) >= count

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
