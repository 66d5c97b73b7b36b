"""The card a stand-in pretends to have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.standin.conftest import Engine, engine_in, slow, smoke

MIB = 1024 * 1024


async def device(engine: Engine) -> dict[str, Any]:
    answer = await engine.http.get("/system_stats")
    return dict(answer.json()["devices"][0])


async def test_models_stay_until_they_are_freed(tmp_path: Path) -> None:
    async with engine_in(tmp_path, vram_total_mib=16_000, need_mib={"": 6_000}) as engine:
        before = await device(engine)
        await engine.run(slow())
        held = await device(engine)
        await engine.http.post("/free", json={"unload_models": True, "free_memory": True})
        await engine.run(smoke())
        await engine.http.post("/free", json={"unload_models": True})
        while (after := await device(engine)) != before:
            assert after == held
    assert before["type"] == "cuda"
    assert before["vram_free"] == before["vram_total"] == 16_000 * MIB
    assert held["vram_free"] == 10_000 * MIB
    assert held["torch_vram_total"] == 6_000 * MIB


async def test_a_node_can_have_a_need_of_its_own(tmp_path: Path) -> None:
    needs = {"": 1_000, "ProbeSlow": 5_000, "SaveVideo": 200}
    async with engine_in(tmp_path, vram_total_mib=16_000, need_mib=needs) as engine:
        await engine.run(smoke())
        small = await device(engine)
        await engine.run(slow())
        large = await device(engine)
    assert small["torch_vram_total"] == 1_200 * MIB
    assert large["torch_vram_total"] == 6_200 * MIB


async def test_more_than_the_card_has_is_out_of_memory(tmp_path: Path) -> None:
    async with engine_in(tmp_path, vram_total_mib=8_000, need_mib={"": 9_000}) as engine:
        entry = await engine.run(slow())
    kind, data = entry["status"]["messages"][-1]
    assert kind == "execution_error"
    assert data["exception_type"] == "torch.OutOfMemoryError"
    assert "GPU 0 has a total capacity of 7.81 GiB" in data["exception_message"]


async def test_without_a_card_it_is_a_cpu_as_recorded(tmp_path: Path) -> None:
    async with engine_in(tmp_path) as engine:
        assert (await device(engine))["type"] == "cpu"
