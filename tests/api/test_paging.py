"""A long list is gone through page by page: each job once, also while more arrive."""

from __future__ import annotations

from pathlib import Path

from app.settings import Settings
from tests.apikit import NOBODY, opened
from tests.fullstore import fill

JOBS = 3_000
"""Fifteen pages. What a page costs among 100,000 is measured by `make bench ROWS=lists`."""

QUEUED = 300


async def test_each_job_of_a_long_list_is_seen_once_while_more_arrive(
    tmp_path: Path, photo: bytes, dance: bytes
) -> None:
    fill(tmp_path, JOBS, queued=QUEUED)
    settings = Settings(data_dir=tmp_path, admission="off", comfyui_urls=(NOBODY,))
    seen: list[str] = []
    arrived: list[str] = []
    async with opened(settings, photo, dance) as world:
        media = await world.media()
        cursor: dict[str, str] = {}
        while True:
            answer = await world.http.get("/v1/jobs", params={"limit": "200", **cursor})
            page = answer.json()
            assert len(page["jobs"]) == 200
            seen += [job["metadata"]["name"] for job in page["jobs"]]
            if page["next_cursor"] is None:
                break
            cursor = {"cursor": page["next_cursor"]}
            if len(seen) % 1_000 == 0:
                arrived.append((await world.job(media=media))["id"])
        first = (await world.http.get("/v1/jobs", params={"limit": "200"})).json()["jobs"]
        queue = (await world.http.get("/v1/jobs", params={"order": "queue", "limit": "3"})).json()
    assert seen == [f"job {number}" for number in reversed(range(JOBS))]
    assert [job["id"] for job in first[: len(arrived)]] == arrived[::-1]
    oldest = [(job["metadata"]["name"], job["queue_position"]) for job in queue["jobs"]]
    assert oldest == [(f"job {JOBS - QUEUED + place}", place) for place in range(3)]
