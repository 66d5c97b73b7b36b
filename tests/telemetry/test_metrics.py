"""What a scrape gets, what the middleware counts, and that the dashboard asks for what exists."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import structlog
from fastapi import FastAPI, Request
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from app.telemetry import Metrics, RequestTelemetry

DASHBOARD = Path(__file__).resolve().parents[2] / "docs" / "grafana.json"


def value(metrics: Metrics, name: str, **labels: str) -> float:
    found = metrics.registry.get_sample_value(f"steadydancer_{name}", labels)
    return 0.0 if found is None else found


def make(metrics: Metrics) -> FastAPI:
    app = FastAPI()

    @app.get("/v1/jobs/{job_id}")
    async def job(job_id: str, request: Request) -> dict[str, str]:
        context = structlog.contextvars.get_contextvars()
        return {"trace": request.state.trace.header(), "bound": context["request_id"]}

    @app.get("/boom")
    async def boom() -> None:
        raise RuntimeError

    @app.get("/slow")
    async def slow() -> None:
        await asyncio.sleep(60)

    app.add_middleware(RequestTelemetry, metrics=metrics)
    return app


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def client(metrics: Metrics) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(make(metrics), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as made:
        yield made


async def test_requests_are_counted_by_route_template(
    client: httpx.AsyncClient, metrics: Metrics
) -> None:
    for number in range(3):
        await client.get(f"/v1/jobs/{number}")
    labels = {"route": "/v1/jobs/{job_id}", "method": "GET"}
    assert value(metrics, "http_requests_total", **labels, status="200") == 3
    assert value(metrics, "http_request_duration_seconds_count", **labels) == 3
    assert value(metrics, "http_requests_in_progress") == 0


async def test_strangers_cannot_add_labels(client: httpx.AsyncClient, metrics: Metrics) -> None:
    for number in range(20):
        await client.request(f"VERB{number}", f"/nowhere/{number}")
    counted = value(metrics, "http_requests_total", route="unmatched", method="OTHER", status="404")
    assert counted == 20
    assert b"VERB1" not in metrics.render()[0]


async def test_a_failure_counts_as_500(client: httpx.AsyncClient, metrics: Metrics) -> None:
    await client.get("/boom")
    assert value(metrics, "http_requests_total", route="/boom", method="GET", status="500") == 1


async def test_a_client_that_leaves_counts_as_499(
    client: httpx.AsyncClient, metrics: Metrics
) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await client.get("/slow")
    assert value(metrics, "http_requests_total", route="/slow", method="GET", status="499") == 1
    assert value(metrics, "http_requests_in_progress") == 0


async def test_a_request_id_and_a_trace_are_taken_over_bound_and_answered(
    client: httpx.AsyncClient,
) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    given = {"x-request-id": "abc-1", "traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        answer = await client.get("/v1/jobs/7", headers=given)
    assert answer.headers.get_list("x-request-id") == ["abc-1"]
    assert answer.json()["bound"] == "abc-1"
    assert answer.json()["trace"].split("-")[1] == trace_id
    assert answer.json()["trace"].split("-")[2] != "00f067aa0ba902b7"
    (line,) = [line for line in lines if line["event"] == "request"]
    assert (line["status"], line["route"]) == (200, "/v1/jobs/{job_id}")
    assert (line["request_id"], line["trace_id"]) == ("abc-1", trace_id)
    assert structlog.contextvars.get_contextvars() == {}


@pytest.mark.parametrize("bad", ["a b", "x" * 129, "é", 'a"}\\n{', ""])
async def test_a_harmful_request_id_is_replaced(client: httpx.AsyncClient, bad: str) -> None:
    answer = await client.get("/v1/jobs/7", headers={b"x-request-id": bad.encode()})
    assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["x-request-id"])


def test_a_scrape_is_valid_and_two_registries_do_not_meet(metrics: Metrics) -> None:
    metrics.webhook("delivered", 0.2)
    metrics.jobs.labels("queued").set(4)
    text, kind = metrics.render()
    assert kind.startswith("text/plain")
    names = {family.name for family in text_string_to_metric_families(text.decode())}
    assert {"steadydancer_jobs", "process_resident_memory_bytes"} <= names
    assert value(metrics, "webhook_tries_total", outcome="delivered") == 1
    assert value(Metrics(), "webhook_tries_total", outcome="delivered") == 0


def test_the_dashboard_shows_every_metric_and_only_names_and_labels_that_exist(
    metrics: Metrics,
) -> None:
    known: dict[str, set[str]] = {}
    families = set()
    for item in vars(metrics).values():
        for family in item.collect() if item is not metrics.registry else ():
            families.add(family.name)
            labels = {*item._labelnames, "instance", "le"}
            for suffix in ("", "_total", "_bucket", "_sum", "_count"):
                known[family.name + suffix] = labels
    queries = [
        target["expr"]
        for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
        for target in panel.get("targets", ())
    ]
    assert len(queries) > 20
    asked = set()
    for query in queries:
        names = set(re.findall(r"steadydancer_\w+", query))
        assert names <= known.keys(), query
        asked |= names
        for name in names:
            used = set(re.findall(r"(\w+)=", query)) | {
                word
                for group in re.findall(r"by \(([^)]*)\)", query)
                for word in group.replace(",", " ").split()
            }
            assert used <= known[name], query
    for family in families:
        assert any(name.startswith(family) for name in asked), family
