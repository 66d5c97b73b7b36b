"""A trace that a caller began goes on in all that its job leads to."""

from __future__ import annotations

import asyncio
import json

import httpx

from app import wire
from app.telemetry import Trace
from tests.apikit import until
from tests.livekit import Live

TRACE = Trace("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", sampled=True, state="a=1")
OTHER = Trace("00000000000000000000000000c0ffee", "00f067aa0ba902b7")


async def test_the_trace_of_a_call_is_in_the_webhooks_and_log_lines_of_its_job(
    gateway: Live, finished: wire.Job
) -> None:
    received: asyncio.Queue[dict[str, str]] = asyncio.Queue()

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()[1:]
        received.put_nowait(dict(line.split(": ", 1) for line in lines if line))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    media = {name: finished.request[name] for name in ("reference_image", "driving_video")}
    async with (
        await asyncio.start_server(receive, "127.0.0.1", 0) as server,
        httpx.AsyncClient(base_url=gateway.url, timeout=60) as http,
        asyncio.timeout(120),
    ):
        hook = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        asked = {
            "workflow": "smoke",
            "request": {**media, "frames": 5},
            "webhook": {"url": hook, "events": ["job.running", "job.succeeded"]},
        }
        first = await http.post("/v1/jobs", json=asked, headers=TRACE.headers())
        told = [await received.get(), await received.get()]
        again = f"/v1/jobs/{first.json()['id']}/rerun"
        second = await http.post(again, json={}, headers=OTHER.headers())
        rerun = [await received.get(), await received.get()]

    traces = [Trace.parse(one["traceparent"], one.get("tracestate")) for one in told]
    assert {(one.trace_id, one.sampled, one.state) for one in traces if one is not None} == {
        (TRACE.trace_id, True, "a=1")
    }
    assert len({one.span_id for one in traces if one is not None} | {TRACE.span_id}) == 3
    for one in rerun:
        found = Trace.parse(one["traceparent"])
        assert found is not None
        assert found.trace_id == OTHER.trace_id, "a rerun belongs to the call that asked for it"

    log = gateway.data_dir / "gateway.log"
    jobs = {first.json()["id"]: TRACE.trace_id, second.json()["id"]: OTHER.trace_id}

    def lines() -> list[dict[str, str]]:
        return [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]

    def all_ended() -> bool:
        ended = [line["job_id"] for line in lines() if line["event"] == "attempt ended"]
        return set(jobs) <= set(ended)

    def all_tried() -> bool:
        tried = [line.get("trace_id") for line in lines() if line["event"] == "webhook tried"]
        return all(tried.count(trace_id) == 2 for trace_id in jobs.values())

    await until(all_ended)
    await until(all_tried)
    for line in lines():
        if line.get("job_id") in jobs:
            assert line["trace_id"] == jobs[line["job_id"]], line
