"""Every way in which the stand-in can be told to go wrong."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.standin.conftest import Engine, engine_in, listening, slow, smoke

CLIENT = "client"


def ending(entry: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    kind, data = entry["status"]["messages"][-1]
    return str(kind), dict(data)


async def running(engine: Engine, prompt_id: str) -> None:
    """Wait until a prompt has started."""
    async with asyncio.timeout(60):
        while not (await engine.stats()).get(prompt_id, {}).get("started"):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_reject_refuses_a_good_graph_so_often(engine: Engine) -> None:
    await engine.misbehave("reject", times=2)
    codes = [
        (await engine.http.post("/prompt", json={"prompt": slow()})).status_code for _ in range(3)
    ]
    assert codes == [400, 400, 200]


async def test_node_errors_come_with_an_acceptance(engine: Engine) -> None:
    await engine.misbehave("node_errors_200", times=1)
    answer = await engine.http.post("/prompt", json={"prompt": slow()})
    assert answer.status_code == 200
    assert answer.json()["node_errors"]
    assert answer.json()["prompt_id"]


@pytest.mark.parametrize(
    ("mode", "kind", "words"),
    [
        ("raise", "RuntimeError", "told to fail"),
        ("out_of_memory", "torch.OutOfMemoryError", "you ran out of memory on your GPU"),
        ("cuda_fault", "RuntimeError", "CUDA error: an illegal memory access"),
    ],
)
async def test_a_run_fails_with_the_real_servers_words(
    engine: Engine, mode: str, kind: str, words: str
) -> None:
    await engine.misbehave(mode, times=1)
    message, data = ending(await engine.run(slow()))
    assert message == "execution_error"
    assert data["exception_type"] == kind
    assert words in data["exception_message"]
    assert data["node_type"] == "ProbeSlow"


async def test_a_broken_cuda_context_stays_broken(engine: Engine) -> None:
    await engine.misbehave("cuda_fault", times=1)
    await engine.run(slow(salt=1))
    message, _ = ending(await engine.run(slow(salt=2)))
    assert message == "execution_error"


async def test_a_fault_can_wait_for_a_node(engine: Engine) -> None:
    how = {"node": "ImageBatch", "exception_type": "ValueError", "message": "no"}
    await engine.misbehave("raise", times=1, **how)
    _, data = ending(await engine.run(smoke()))
    assert (data["node_id"], data["exception_type"]) == ("7", "ValueError")
    assert data["exception_message"] == "no\n"


async def test_a_fault_can_wait_for_a_step(engine: Engine) -> None:
    await engine.misbehave("raise", times=1, at_step=3)
    async with listening(engine, CLIENT) as listener:
        prompt_id = await engine.submit(slow(steps=5), client_id=CLIENT)
        await listener.over(prompt_id)
    steps = [m["data"]["value"] for m in listener.heard if m["type"] == "progress"]
    assert steps == [1, 2]


async def test_a_hanging_run_ends_when_interrupted(engine: Engine) -> None:
    await engine.misbehave("hang", times=1)
    prompt_id = await engine.submit(slow())
    await running(engine, prompt_id)
    assert await engine.remaining() == 1
    await engine.http.post("/interrupt", json={"prompt_id": prompt_id})
    message, _ = ending(await engine.ended(prompt_id))
    assert message == "execution_interrupted"


async def test_a_hang_can_be_ordered_while_a_run_goes_on(engine: Engine) -> None:
    async with listening(engine, CLIENT) as listener:
        prompt_id = await engine.submit(slow(steps=1000, delay=0.005), client_id=CLIENT)
        await listener.until(lambda: "progress" in listener.kinds)
        await engine.misbehave("hang", times=1)
        await engine.http.get("/queue")
        steps = listener.kinds.count("progress")
        await asyncio.sleep(0.1)
        assert listener.kinds.count("progress") <= steps + 1
        await engine.http.post("/interrupt", json={})
        await listener.over(prompt_id)
    assert "execution_interrupted" in listener.kinds


async def test_a_deaf_run_hears_the_interrupt_only_afterwards(engine: Engine) -> None:
    await engine.misbehave("deaf", times=1, seconds=0.3)
    began = time.monotonic()
    prompt_id = await engine.submit(slow())
    await running(engine, prompt_id)
    await engine.http.post("/interrupt", json={"prompt_id": prompt_id})
    await engine.ended(prompt_id)
    assert time.monotonic() - began >= 0.3


async def test_a_dropped_socket_closes_and_the_run_goes_on(engine: Engine) -> None:
    await engine.misbehave("drop_socket", times=1)
    async with listening(engine, CLIENT) as listener:
        prompt_id = await engine.submit(slow(), client_id=CLIENT)
        await asyncio.wait_for(listener.closed.wait(), 60)
    assert ending(await engine.ended(prompt_id))[0] == "execution_success"
    assert "execution_success" not in listener.kinds


async def test_a_silent_socket_stays_open_and_a_new_one_hears(engine: Engine) -> None:
    await engine.misbehave("silent_socket", times=1)
    async with listening(engine, CLIENT) as listener:
        first = await engine.submit(slow(salt=1), client_id=CLIENT)
        await engine.ended(first)
        assert "execution_success" not in listener.kinds
        assert not listener.closed.is_set()
        async with listening(engine, "other") as other:
            second = await engine.submit(slow(salt=2), client_id="other")
            await other.over(second)


async def test_a_forgotten_prompt_is_in_neither_queue_nor_history(engine: Engine) -> None:
    first = await engine.run(slow(salt=1))
    second = await engine.submit(slow(salt=2, steps=1000))
    third = await engine.submit(slow(salt=3))
    await running(engine, second)
    await engine.misbehave("forget")
    queue = (await engine.http.get("/queue")).json()
    assert queue == {"queue_running": [], "queue_pending": []}
    assert (await engine.http.get("/history")).json() == {}
    assert first["status"]["completed"]
    await engine.run(slow(salt=4))
    stats = await engine.stats()
    assert stats[second]["succeeded"] == 0
    assert stats[third]["started"] == 0


async def test_answers_can_be_slow(engine: Engine) -> None:
    await engine.misbehave("slow", times=1, seconds=1)
    began = time.monotonic()
    await engine.http.get("/queue")
    middle = time.monotonic()
    await engine.http.get("/queue")
    assert middle - began >= 1
    assert time.monotonic() - middle < middle - began


async def test_a_lost_answer_is_an_accepted_prompt(engine: Engine) -> None:
    await engine.misbehave("lose_answer", times=1)
    prompt_id = "55555555-0000-4000-8000-000000000001"
    with pytest.raises(httpx.TransportError):
        await engine.http.post("/prompt", json={"prompt": slow(), "prompt_id": prompt_id})
    assert ending(await engine.ended(prompt_id))[0] == "execution_success"


async def test_a_missing_file_is_told_and_not_there(engine: Engine) -> None:
    await engine.misbehave("missing_file", times=1)
    entry = await engine.run(smoke())
    named = entry["outputs"]["9"]["images"][0]
    assert not engine.file(entry, "9", "images").exists()
    assert (await engine.http.get("/view", params=named)).status_code == 404


async def test_a_broken_file_is_no_video(engine: Engine) -> None:
    await engine.misbehave("broken_file", times=1)
    broken = engine.file(await engine.run(smoke(prefix="broken")), "9", "images")
    whole = engine.file(await engine.run(smoke(prefix="whole")), "9", "images")
    assert broken.stat().st_size < whole.stat().st_size
    assert broken.read_bytes()[4:8] != b"ftyp"
    assert whole.read_bytes()[4:8] == b"ftyp"


async def test_told_to_behave_it_does(engine: Engine) -> None:
    await engine.misbehave("raise")
    assert ending(await engine.run(slow(salt=1)))[0] == "execution_error"
    assert ending(await engine.run(slow(salt=2)))[0] == "execution_error"
    await engine.http.post("/standin/behave")
    assert ending(await engine.run(slow(salt=3)))[0] == "execution_success"


@pytest.mark.parametrize("body", [{"mode": "dance"}, {"mode": "hang", "where": "here"}])
async def test_an_unknown_order_is_refused(engine: Engine, body: dict[str, Any]) -> None:
    answer = await engine.http.post("/standin/misbehave", json=body)
    assert answer.status_code == 400


async def test_orders_can_be_given_at_the_start(tmp_path: Path) -> None:
    async with engine_in(tmp_path) as engine:
        engine.standin.misbehavior.parse("raise:times=1,node=3,message=early")
        _, data = ending(await engine.run(slow()))
    assert (data["node_id"], data["exception_message"]) == ("3", "early\n")
