"""What people look at beside the job itself: the files sent, each attempt, the memory learned."""

from __future__ import annotations

from app.gpu import estimate
from app.gpu.estimate import ShapeKey
from app.jobs import queue
from app.jobs.queue import FailureNote, Usage
from app.jobs.states import Caps, Loss
from tests.apikit import World

LINE = [[0.0, 400], [1.5, 7_000]]


async def test_an_upload_is_given_back_whole_or_in_part_to_who_may_see_it(world: World) -> None:
    mine = await world.key("submit", "read")
    upload = await world.upload(world.dance, **mine)
    place = f"/v1/uploads/{upload['id']}/content"
    whole = await world.http.get(place, headers=mine)
    assert whole.content == world.dance
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["content-disposition"].startswith("inline")
    part = await world.http.get(place, headers={**mine, "Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    beyond = await world.http.get(place, headers={**mine, "Range": f"bytes={len(world.dance)}-"})
    assert (beyond.status_code, beyond.json()["code"]) == (416, "range-not-satisfiable")
    same = await world.http.get(place, headers={**mine, "If-None-Match": whole.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")
    head = await world.http.head(place, headers=mine)
    assert (head.headers["content-length"], head.content) == (str(len(world.dance)), b"")
    other = await world.http.get(place, headers=await world.key("submit", "read"))
    assert (other.status_code, other.json()["code"]) == (404, "not-found")
    assert (await world.http.get(place, headers=await world.key("admin"))).status_code == 200


async def test_each_attempt_is_told_and_the_engines_own_words_to_admins_only(world: World) -> None:
    mine, admin = await world.key("submit", "read"), await world.key("admin")
    job = await world.job(headers=mine)
    place = f"/v1/jobs/{job['id']}/attempts"
    assert (await world.http.get(place, headers=mine)).json() == {"attempts": []}
    fence = await world.claim(job["id"])
    note = FailureNote("engine-died", "The engine died.", private="core dumped in /srv/comfy")
    used = Usage(1.5, 7_000, LINE)
    await world.gateway.db.write(lambda session: queue.start(session, fence, now=world.now()))
    assert await world.gateway.db.write(
        lambda session: queue.lose(
            session,
            fence,
            Loss.ENGINE_DIED,
            note,
            caps=Caps(),
            usage=used,
            log_tail="Killed",
            now=world.now(),
        )
    )
    await world.claim(job["id"])
    first, second = (await world.http.get(place, headers=mine)).json()["attempts"]
    assert (first["number"], first["engine"]) == (1, "nowhere")
    assert (first["peak_vram_mib"], first["vram_timeline"]) == (7_000, LINE)
    assert first["finished_at"] is not None
    assert (first["detail"], first["log_tail"]) == (None, None)
    assert (second["number"], second["outcome"], second["vram_timeline"]) == (2, None, None)
    told = (await world.http.get(place, headers=admin)).json()["attempts"][0]
    assert (told["detail"], told["log_tail"]) == ("core dumped in /srv/comfy", "Killed")
    other = await world.http.get(place, headers=await world.key("read"))
    assert other.status_code == 404


async def test_learned_memory_is_told_for_each_shape_and_card(world: World) -> None:
    assert (await world.http.get("/v1/system/memory")).json() == {"shapes": []}
    small = ShapeKey("steadydancer", "q4_k_m/fast", 256, 448, 33, "Card A")
    large = ShapeKey("steadydancer", "q4_k_m/fast", 480, 832, 81, "Card A")

    for key, peak_mib, oom in (
        (large, 12_000, False),
        (large, 12_400, True),
        (small, 7_000, False),
    ):
        await world.gateway.db.write(
            lambda session, key=key, peak_mib=peak_mib, oom=oom: estimate.record(  # type: ignore[misc]
                session,
                key,
                peak_mib=peak_mib,
                card_mib=23_000,
                oom=oom,
                source="process",
                attempt_id=None,
                at=world.now(),
            )
        )
    answer = await world.http.get("/v1/system/memory")
    first, second = answer.json()["shapes"]
    assert (first["width"], first["frames"], first["card"]) == (256, 33, "Card A")
    assert (second["samples"], second["ooms"], second["peak_mib"]) == (2, 1, 12_400)
    assert first["need_mib"] >= 7_000
    tag = {"If-None-Match": answer.headers["etag"]}
    assert (await world.http.get("/v1/system/memory", headers=tag)).status_code == 304
