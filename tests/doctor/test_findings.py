"""Each check tells a healthy machine from a sick one, and says what to do."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.database import Database
from app.doctor import engine, machine, store
from app.gpu.card import CardUnreadable
from app.gpu.simulated import SimulatedCard
from app.schema import revisions
from app.workflows.registry import Registry, load_workflows, standin_models

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
NOW = datetime(2026, 6, 1, tzinfo=UTC)
KNOWN = revisions(ROOT / "migrations")


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_workflows(ROOT / "workflows")


def recorded(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DATA / name).read_text(encoding="utf-8"))
    return loaded


def complete(name: str, registry: Registry) -> dict[str, Any]:
    """A recorded engine with every model file in its lists."""
    info = recorded(name)
    for place, files in standin_models(registry).items():
        node, field = place.split(".")
        info[node]["input"]["required"][field][0] = files
    return info


def inspect(info: dict[str, Any], registry: Registry, *, version: str) -> dict[str, Any]:
    found = engine.inspect(
        "http://engine",
        version=version,
        upload_limit=100 * 1024**2,
        object_info=info,
        workflows=tuple(registry),
        models_dir=Path("/models"),
        max_upload_bytes=100 * 1024**2,
    )
    return {finding.name: finding for finding in found}


@pytest.mark.parametrize(
    ("name", "version"), [("object_info.json", "0.28.1"), ("object_info.v0.10.0.json", "0.10.0")]
)
def test_a_complete_engine_has_nothing_wrong(name: str, version: str, registry: Registry) -> None:
    found = inspect(complete(name, registry), registry, version=version)
    assert {finding.status for finding in found.values()} == {"ok"}


def test_missing_models_come_with_the_very_command_that_brings_them(registry: Registry) -> None:
    info = complete("object_info.json", registry)
    info["WanVideoVAELoader"]["input"]["required"]["model_name"][0] = []
    found = inspect(info, registry, version="0.28.1")["steadydancer models"]
    assert found.status == "fail"
    assert "Wan2_1_VAE_bf16.safetensors" in found.detail
    assert found.advice == (
        "steadydancer models download --workflow steadydancer --variant q4_k_m --models-dir /models"
    )


@pytest.mark.parametrize(("version", "status"), [("0.28.1", "fail"), ("0.22.3", "warn")])
def test_hidden_onnx_files_are_told_from_missing_ones(
    registry: Registry, version: str, status: str
) -> None:
    info = complete("object_info.json", registry)
    for field in ("vitpose_model", "yolo_model"):
        info["OnnxDetectionModelLoader"]["input"]["required"][field][0] = ["data.bin"]
    found = inspect(info, registry, version=version)["comfyui .onnx list"]
    assert found.status == status
    assert found.advice


def test_a_missing_node_names_the_trap_of_an_old_engine(registry: Registry) -> None:
    info = complete("object_info.v0.10.0.json", registry)
    del info["WanVideoSampler"]
    found = inspect(info, registry, version="0.10.0")["steadydancer nodes"]
    assert found.status == "fail"
    assert "WanVideoSampler" in found.detail
    assert "955a93b" in found.advice


def test_an_upload_limit_below_the_gateways_is_a_warning(registry: Registry) -> None:
    found = engine.inspect(
        "http://engine",
        version="0.28.1",
        upload_limit=100 * 1024**2,
        object_info=complete("object_info.json", registry),
        workflows=tuple(registry),
        models_dir=None,
        max_upload_bytes=2 * 1024**3,
    )
    advice = next(one.advice for one in found if one.name == "comfyui upload limit")
    assert "--max-upload-size 2048" in advice


def test_unverified_names_are_marked(registry: Registry, tmp_path: Path) -> None:
    found = {one.name: one for one in engine.manifest(registry.get("steadydancer"), tmp_path)}
    assert found["steadydancer manifest"].status == "warn"
    assert "name follows a pattern" in found["steadydancer manifest"].detail
    assert "(missing)" in found["steadydancer files"].detail


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (None, "skip"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue", "ok"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  535.104.05  Release", "ok"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82.01  Wed", "fail"),
        ("something else", "warn"),
    ],
)
def test_the_driver_is_judged_by_its_version(text: str | None, status: str) -> None:
    assert machine.driver(text).status == status


def test_each_engine_needs_a_card_that_can_be_read() -> None:
    lost = CardUnreadable("It is gone.", advice="Look at dmesg.")
    cards = [SimulatedCard(total_mib=16_000), SimulatedCard(total_mib=16_000)]
    cards[1].problem = lost

    def none() -> list[SimulatedCard]:
        raise lost

    first, second = machine.cards(lambda: cards, admission="nvml")
    assert (first.status, second.status, second.advice) == ("ok", "fail", "Look at dmesg.")
    assert [one.status for one in machine.cards(none, admission="nvml")] == ["fail"]
    assert [one.status for one in machine.cards(none, admission="off")] == ["skip"]


@pytest.mark.parametrize(
    ("free", "status"), [(100 * 1024**3, "ok"), (1024**3, "warn"), (1024, "fail")]
)
def test_a_full_disk_is_seen_before_it_is_full(free: int, status: str) -> None:
    assert machine.disk("data", "/data", free, needed_bytes=1024**2).status == status


def test_a_clock_behind_its_own_rows_is_wrong() -> None:
    assert machine.clock(NOW, None).status == "ok"
    assert machine.clock(NOW, NOW + timedelta(seconds=30)).status == "ok"
    assert machine.clock(NOW, NOW + timedelta(hours=1)).status == "fail"
    assert machine.clock(datetime(1970, 1, 2, tzinfo=UTC), None).status == "fail"


def test_a_port_is_free_ours_or_taken() -> None:
    assert machine.port("127.0.0.1", 8000, "nobody").status == "ok"
    assert machine.port("127.0.0.1", 8000, "gateway").status == "ok"
    assert machine.port("127.0.0.1", 8000, "other").status == "fail"


def test_a_sound_store_is_told_from_a_damaged_and_from_a_newer_one(db: Database) -> None:
    assert db.path is not None
    assert {one.status for one in store.look(db.path, KNOWN).findings} == {"ok"}
    newer = store.look(db.path, ["0000"]).findings[-1]
    assert newer.status == "fail"
    older = store.look(db.path, [*KNOWN, "9999"]).findings[-1]
    assert (older.status, "db upgrade" in older.advice) == ("warn", True)
    db.close()
    db.path.write_bytes(db.path.read_bytes()[:8192] + b"\xff" * 40_000)
    damaged = store.look(db.path, KNOWN).findings[-1]
    assert (damaged.status, "db restore" in damaged.advice) == ("fail", True)


def test_looking_at_a_store_that_is_not_there_makes_none(tmp_path: Path) -> None:
    assert store.look(tmp_path / "gateway.db", KNOWN).findings[-1].status == "ok"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("loopback", "keys", "makes", "status"),
    [
        (True, 0, False, "ok"),
        (False, 1, False, "ok"),
        (False, 0, True, "ok"),
        (False, 0, False, "fail"),
        (False, None, False, "skip"),
    ],
)
def test_being_reachable_without_a_key_fails(
    *, loopback: bool, keys: int | None, makes: bool, status: str
) -> None:
    found = store.reachable("host", loopback=loopback, admin_keys=keys, makes_key=makes)
    assert found.status == status
