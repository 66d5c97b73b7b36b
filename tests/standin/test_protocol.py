"""What the recordings leave out and clients still rely on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.websockets import WebSocketDisconnect
from websockets.asyncio.client import connect

from app.standin.state import Sockets
from tests.standin.conftest import Engine, engine_in, listening, slow, smoke

CLIENT = "client"


async def test_the_same_graph_again_is_cached_and_another_prefix_is_not(engine: Engine) -> None:
    first = await engine.run(smoke(prefix="one"))
    again = await engine.run(smoke(prefix="one"))
    other = await engine.run(smoke(prefix="two"))
    assert first["outputs"] == again["outputs"]
    cached = [entry["status"]["messages"][1][1]["nodes"] for entry in (first, again, other)]
    assert cached == [[], list("123456789"), list("12345678")]
    assert other["outputs"]["9"]["images"][0]["filename"] == "two_00001_.mp4"


async def test_the_cache_knows_only_the_latest_graph(engine: Engine) -> None:
    await engine.run(smoke())
    await engine.run(slow())
    entry = await engine.run(smoke())
    assert entry["status"]["messages"][1][1]["nodes"] == []
    assert entry["outputs"]["9"]["images"][0]["filename"] == "smoke_00002_.mp4"


async def test_another_file_of_the_same_name_is_not_cached(engine: Engine, tmp_path: Path) -> None:
    await engine.run(smoke())
    data = (tmp_path / "input/ref.png").read_bytes() + b"more"
    form = {"image": ("ref.png", data, "image/png")}
    await engine.http.post("/upload/image", files=form, data={"overwrite": "true"})
    entry = await engine.run(smoke())
    assert entry["status"]["messages"][1][1]["nodes"] == ["2", "3", "4", "5"]


async def test_prompts_run_by_number_and_front_goes_first(engine: Engine) -> None:
    first = await engine.submit(slow(salt=1, steps=50))
    later = await engine.submit(slow(salt=2))
    front = await engine.submit(slow(salt=3), front=True)
    await engine.ended(later)
    history = (await engine.http.get("/history")).json()
    assert list(history) == [first, front, later]


async def test_an_interrupt_between_nodes_names_the_next_node(tmp_path: Path) -> None:
    async with engine_in(tmp_path, work=True) as engine, listening(engine, CLIENT) as listener:
        prompt_id = await engine.submit(slow(steps=1, delay=0.2), client_id=CLIENT)
        await listener.until(lambda: "executing" in listener.kinds)
        await engine.http.post("/interrupt", json={"prompt_id": prompt_id})
        await listener.over(prompt_id)
    told = next(m["data"] for m in listener.heard if m["type"] == "execution_interrupted")
    assert told["node_id"] == "2"
    assert told["executed"] == ["1"]


async def test_an_old_socket_that_closes_takes_its_successor_off_the_list(engine: Engine) -> None:
    """ComfyUI's own fault, which a client that reconnects must live with."""
    url = f"{engine.url.replace('http', 'ws', 1)}/ws?clientId={CLIENT}"
    old = await connect(url)
    async with listening(engine, CLIENT) as listener:
        await old.close()
        await engine.run(slow(), client_id=CLIENT)
        assert listener.kinds == ["status"]


async def test_without_a_client_id_the_server_makes_one(engine: Engine) -> None:
    async with listening(engine, "") as listener:
        assert len(listener.heard[0]["data"]["sid"]) == 32


async def test_a_file_that_the_client_has_is_not_sent_again(engine: Engine) -> None:
    await engine.run(smoke())
    params = {"filename": "smoke_00001_.mp4"}
    answer = await engine.http.get("/view", params=params)
    for header, value in (
        ("If-None-Match", answer.headers["etag"]),
        ("If-Modified-Since", answer.headers["last-modified"]),
    ):
        again = await engine.http.get("/view", params=params, headers={header: value})
        assert (again.status_code, again.content) == (304, b"")
    stale = {"Range": "bytes=0-9", "If-Range": '"another"'}
    whole = await engine.http.get("/view", params=params, headers=stale)
    assert (whole.status_code, len(whole.content)) == (200, len(answer.content))


@pytest.mark.parametrize("value", ["bytes=5-2", "bytes=-", "bytes=x-", "lines=0-9"])
async def test_a_range_that_makes_no_sense_is_refused(engine: Engine, value: str) -> None:
    await engine.run(smoke())
    params = {"filename": "smoke_00001_.mp4"}
    answer = await engine.http.get("/view", params=params, headers={"Range": value})
    assert answer.status_code == 416


async def test_an_upload_over_the_limit_is_refused_though_its_length_is_not_told(
    tmp_path: Path,
) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.mp4"\r\n\r\n'
        for _ in range(40):
            yield bytes(64 * 1024)
            await asyncio.sleep(0)

    async with engine_in(tmp_path, max_upload_bytes=1024 * 1024) as engine:
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        try:
            answer = await engine.http.post("/upload/image", content=parts(), headers=headers)
        except httpx.TransportError:
            return  # the server may also hang up on a client that goes on sending
        assert answer.status_code == 413
        assert answer.text == "Maximum request body size 1048576 exceeded."


async def test_history_can_lag_behind_the_message(tmp_path: Path) -> None:
    async with (
        engine_in(tmp_path, history_lag_seconds=0.3) as engine,
        listening(engine, CLIENT) as listener,
    ):
        prompt_id = await engine.submit(slow(), client_id=CLIENT)
        await listener.until(lambda: "execution_success" in listener.kinds)
        assert (await engine.http.get(f"/history/{prompt_id}")).json() == {}
        queue = (await engine.http.get("/queue")).json()
        assert queue["queue_running"][0][1] == prompt_id
        await listener.over(prompt_id)
        assert (await engine.http.get(f"/history/{prompt_id}")).json() != {}


async def test_a_wish_for_previews_counts_for_one_prompt(engine: Engine) -> None:
    url = f"{engine.url.replace('http', 'ws', 1)}/ws?clientId={CLIENT}"
    async with connect(url) as socket:
        counts = []
        for number, wish in enumerate(("none", "auto")):
            graph = slow(salt=number)
            graph["2"]["inputs"]["preview"] = True
            extra = {"preview_method": wish}
            prompt_id = await engine.submit(graph, client_id=CLIENT, extra_data=extra)
            frames: list[str | bytes] = []
            while f'"node": null, "prompt_id": "{prompt_id}"' not in str(frames[-1:]):
                frames.append(await asyncio.wait_for(socket.recv(), 60))
            counts.append(sum(isinstance(frame, bytes) for frame in frames))
    assert counts == [0, 4]


class Gone:
    """A socket whose client was cut off: starlette finds out while it sends."""

    def __init__(self) -> None:
        self.tried = asyncio.Event()

    async def send_text(self, data: str) -> None:
        self.tried.set()
        raise WebSocketDisconnect(code=1006)

    async def send_bytes(self, data: bytes) -> None:
        raise WebSocketDisconnect(code=1006)


async def test_a_client_that_is_cut_off_takes_nothing_from_the_others() -> None:
    gone = Gone()
    sockets = Sockets()
    sockets.sockets["gone"] = gone
    publisher = asyncio.create_task(sockets.publish())
    sockets.send("status", {})
    sockets.send_bytes(b"preview", "gone")
    async with asyncio.timeout(60):
        await sockets.flush()
    assert gone.tried.is_set()
    assert not publisher.done(), "the stand-in ends when its publisher does"
    publisher.cancel()
