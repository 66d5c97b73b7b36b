"""The event stream: complete, resumable, alive, and over when the job is."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import pytest
import pytest_asyncio
import sqlalchemy as sa

from app.api.services import HttpLimits
from app.jobs import queue
from app.jobs.queue import Report
from app.settings import Settings
from tests.apikit import World, opened, serving, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def world(shared: World) -> World:
    """One gateway for the module: its tests look only at jobs of their own."""
    return shared


@dataclass
class Told:
    """One event as an EventSource would dispatch it."""

    id: str
    type: str
    data: dict[str, Any]


async def events_of(answer: httpx.Response) -> AsyncIterator[Told]:
    """Parse a stream by the rules of the HTML standard."""
    last, kind, data = "", "message", ""
    async for line in answer.aiter_lines():
        if not line:
            if data:
                yield Told(last, kind, json.loads(data))
            kind, data = "message", ""
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "id":
            last = value
        elif field == "event":
            kind = value
        elif field == "data":
            data += value


@asynccontextmanager
async def following(
    world: World, job_id: str, last: str | None = None
) -> AsyncIterator[AsyncIterator[Told]]:
    headers = {"Last-Event-ID": last} if last is not None else {}
    async with world.http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield events_of(answer)


async def test_a_stream_tells_what_was_then_what_happens_and_ends_with_the_job(live: World) -> None:
    job = await live.job()
    async with following(live, job["id"]) as events:
        assert (await anext(events)).type == "job.queued"
        await live.succeed(job["id"])
        rest = [event async for event in events]
    kinds = [event.type for event in rest]
    assert kinds.index("job.running") < kinds.index("job.succeeded") == len(kinds) - 1
    ids = [int(event.id) for event in rest]
    assert ids == sorted(set(ids))
    assert all(event.data["id"] == int(event.id) for event in rest)


async def test_a_reader_that_comes_back_misses_nothing_and_reads_nothing_twice(live: World) -> None:
    job = await live.job()
    async with following(live, job["id"]) as events:
        first = await anext(events)
    fence = await live.claim(job["id"])
    for step in range(1, 5):
        report = Report(phase="sampling", fraction=step / 5, step=step, steps=5)
        move = partial(queue.heartbeat, fence=fence, report=report, now=live.now())
        await live.gateway.db.write(move)
    async with following(live, job["id"], first.id) as events:
        seen = [await anext(events)]
        while seen[-1].data["data"].get("fraction") != 0.8:
            seen.append(await anext(events))
    assert [event.type for event in seen].count("job.progress") == 3
    async with following(live, job["id"]) as events:
        everything = [await anext(events) for _ in range(1 + len(seen))]
    assert [event.id for event in everything] == [first.id, *(event.id for event in seen)]


async def test_a_reader_may_come_back_to_another_life_of_the_gateway(
    settings: Settings, photo: bytes, dance: bytes
) -> None:
    async with opened(settings, photo, dance) as world:
        job = await world.job()
        await world.http.post(f"/v1/jobs/{job['id']}/cancel")
        async with following(world, job["id"]) as events:
            before = [event async for event in events]
    async with (
        opened(settings, photo, dance) as world,
        following(world, job["id"], before[0].id) as events,
    ):
        after = [event async for event in events]
    assert [event.id for event in after] == [event.id for event in before[1:]]


async def test_who_has_seen_the_end_is_told_not_to_come_back(world: World) -> None:
    job = await world.job()
    await world.http.post(f"/v1/jobs/{job['id']}/cancel")
    async with following(world, job["id"]) as events:
        last = [event async for event in events][-1]
    again = await world.http.get(f"/v1/jobs/{job['id']}/events", headers={"Last-Event-ID": last.id})
    assert (again.status_code, again.content) == (204, b"")


async def test_previews_are_shown_live_and_have_no_id(live: World) -> None:
    job = await live.job()
    await live.claim(job["id"])
    async with following(live, job["id"]) as events:
        last = await anext(events)
        while last.type != "job.running":
            last = await anext(events)
        live.gateway.feed.show(job["id"], "image/jpeg", b"picture")
        preview = await anext(events)
    assert preview.type == "preview"
    assert base64.b64decode(preview.data["base64"]) == b"picture"
    assert preview.id == last.id, "a preview leaves the place to resume from alone"


async def test_a_quiet_stream_stays_alive(settings: Settings, photo: bytes, dance: bytes) -> None:
    limits = HttpLimits(heartbeat_seconds=0.02)
    async with serving(settings, photo, dance, limits=limits) as world:
        job = await world.job()
        beats, told = 0, []
        async with (
            asyncio.timeout(60),
            world.http.stream("GET", f"/v1/jobs/{job['id']}/events", timeout=60) as answer,
        ):
            async for line in answer.aiter_lines():
                beats += line == ": still here"
                told.append(line)
                if beats == 2 and line == ": still here":
                    await world.http.post(f"/v1/jobs/{job['id']}/cancel", timeout=60)
    assert beats >= 2
    assert "event: job.canceled" in told


async def test_streams_end_when_the_gateway_stops(world: World) -> None:
    job = await world.job()
    call = asyncio.create_task(world.http.get(f"/v1/jobs/{job['id']}/events"))
    await world.watched()
    world.gateway.stopping.set()
    world.gateway.feed.publish_all()
    async with asyncio.timeout(25):
        assert (await call).status_code == 200
    world.gateway.stopping.clear()


async def test_a_stream_of_a_deleted_job_ends(world: World) -> None:
    job = await world.job()
    call = asyncio.create_task(world.http.get(f"/v1/jobs/{job['id']}/events"))
    await world.watched()
    await world.http.post(f"/v1/jobs/{job['id']}/cancel")
    await world.http.delete(f"/v1/jobs/{job['id']}")
    async with asyncio.timeout(25):
        await call


async def test_an_id_that_no_stream_gave_is_refused(world: World) -> None:
    job = await world.job()
    for last in ("x", "-1", "1.5", "9" * 30, "\u0661"):
        answer = await world.http.get(
            f"/v1/jobs/{job['id']}/events", headers=[(b"Last-Event-ID", last.encode())]
        )
        assert answer.status_code == 422, last


async def test_a_stream_ends_with_the_key_that_asked_for_it(live: World) -> None:
    admin, reader = await live.key("admin"), await live.key("admin", name="reader")
    job = await live.job(headers=admin)
    listed = (await live.http.get("/v1/keys", headers=admin)).json()["keys"]
    key_id = next(key["id"] for key in listed if key["name"] == "reader")
    path = f"/v1/jobs/{job['id']}/events"
    async with (
        asyncio.timeout(60),
        live.http.stream("GET", path, headers=reader) as ends,
        live.http.stream("GET", path, headers=admin) as stays,
    ):
        still = events_of(stays)
        assert (await anext(still)).type == "job.queued"
        assert (await live.http.delete(f"/v1/keys/{key_id}", headers=admin)).status_code == 200
        seen = [event.type async for event in events_of(ends)]
        assert seen[0] == "job.queued"
        assert "job.canceled" not in seen
        await live.http.post(f"/v1/jobs/{job['id']}/cancel", headers=admin)
        assert [event.type async for event in still][-1] == "job.canceled"
    await live.gateway.db.write(lambda session: session.execute(sa.text("DELETE FROM api_key")))
    live.app.state.doorman.keys_changed()


async def test_a_key_may_have_only_so_many_streams_open(
    settings: Settings, photo: bytes, dance: bytes
) -> None:
    few = settings.model_copy(update={"watchers_per_key": 1})
    async with serving(few, photo, dance) as world:
        key = await world.key("submit", "read")
        path = f"/v1/jobs/{(await world.job(headers=key))['id']}"

        async def status_of(tail: str) -> int:
            return (await world.http.get(f"{path}{tail}", headers=key)).status_code

        async def is_free() -> bool:
            return await status_of("?wait=0.01") == 200

        async with world.http.stream("GET", f"{path}/events", headers=key) as answer:
            assert (await anext(events_of(answer))).type == "job.queued"
            refused = await world.http.get(f"{path}/events", headers=key)
            assert (refused.status_code, refused.json()["code"]) == (429, "rate-limited")
            assert int(refused.headers["retry-after"]) > 0
            assert await status_of("?wait=5") == 429
            assert await status_of("") == 200
        await until(is_free)

        opened, release = [], asyncio.Event()

        async def burst(number: int) -> None:
            async with world.http.stream("GET", f"{path}/events", headers=key) as answer:
                async for _ in events_of(answer):
                    opened.append(number)
                    await release.wait()
                    return

        tasks = [asyncio.create_task(burst(number)) for number in range(6)]
        await until(lambda: sum(task.done() for task in tasks) == 5)
        await until(lambda: len(opened) == 1)
        release.set()
        await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    "path", ["/v1/jobs", "/v1/jobs/{id}", "/v1/system", "/v1/workflows", "/v1/uploads/{upload}"]
)
async def test_head_is_get_without_a_body_but_for_a_stream(live: World, path: str) -> None:
    job = await live.job()
    path = path.format(id=job["id"], upload=job["request"]["reference_image"]["upload_id"])
    got, head = await live.http.get(path), await live.http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    assert int(head.headers["content-length"]) > 0
    assert (await live.http.head(f"/v1/jobs/{job['id']}/events")).status_code == 405
