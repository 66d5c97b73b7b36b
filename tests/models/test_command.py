"""`steadydancer models` as an operator runs it: a process, a Hub, a folder."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.models.conftest import BASE, LARGE, ROOT, SMALL, Run, Start
from tests.models.hubserver import FakeHub

BASE_FILE = "maker/parts/deep/base.safetensors"


def partials(models_dir: Path) -> list[Path]:
    return sorted(models_dir.rglob("*.partial"))


def most_arrived(models_dir: Path) -> int:
    """Bytes of the largest file that is not complete; one that is done meanwhile does not count."""
    sizes = [0]
    for path in partials(models_dir):
        with suppress(FileNotFoundError):
            sizes.append(path.stat().st_size)
    return max(sizes)


def wait_for(condition: Callable[[], bool], *, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.01)


def test_download_brings_what_the_variant_needs_and_nothing_else(
    steadydancer: Run, hub: FakeHub, models_dir: Path
) -> None:
    done = steadydancer("download")
    assert done.returncode == 0, done.stderr
    assert (models_dir / "text_encoders/base.safetensors").read_bytes() == BASE
    assert (models_dir / "diffusion_models/small.gguf").read_bytes() == SMALL
    assert sorted(path.name for path in models_dir.rglob("*") if path.is_file()) == [
        "base.safetensors",
        "small.gguf",
    ]
    assert not any("large" in asked.path for asked in hub.hub_requests)


def test_download_says_what_restricts_use_and_what_was_never_seen(steadydancer: Run) -> None:
    told = steadydancer("download").stderr
    assert "AGPL-3.0: ask a lawyer" in told
    assert "small.gguf: name follows a pattern, not seen; size is approximate" in told


def test_another_variant_can_be_named(steadydancer: Run, models_dir: Path) -> None:
    assert steadydancer("download", "--variant", "large").returncode == 0
    assert (models_dir / "diffusion_models/large.gguf").read_bytes() == LARGE
    assert not (models_dir / "diffusion_models/small.gguf").exists()


def test_an_unknown_variant_is_refused_with_those_that_exist(steadydancer: Run) -> None:
    done = steadydancer("download", "--variant", "medium")
    assert done.returncode == 2
    assert "small, large" in done.stderr


def test_a_killed_download_goes_on_where_it_was(
    start: Start, steadydancer: Run, hub: FakeHub, models_dir: Path
) -> None:
    served = hub.files[BASE_FILE]
    served.hold_at = 2_000_000
    process = start("download")
    try:
        wait_for(lambda: most_arrived(models_dir) >= 1_048_576)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    have = next(p.stat().st_size for p in partials(models_dir) if "base" in p.name)
    served.hold_at = None
    served.go.set()
    hub.cdn_requests.clear()
    assert steadydancer("download").returncode == 0
    ranges = [asked.range for asked in hub.cdn_requests if asked.path.endswith(BASE_FILE)]
    assert ranges == [f"bytes={have}-"]
    assert (models_dir / "text_encoders/base.safetensors").read_bytes() == BASE
    assert partials(models_dir) == []


def test_ctrl_c_ends_with_130_and_keeps_what_arrived(
    start: Start, hub: FakeHub, models_dir: Path
) -> None:
    served = hub.files[BASE_FILE]
    served.hold_at = 2_000_000
    process = start("download")
    try:
        wait_for(lambda: most_arrived(models_dir) >= 1_048_576)
        process.send_signal(signal.SIGINT)
        served.go.set()
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert any("base" in p.name for p in partials(models_dir))


def test_what_is_there_and_right_is_not_asked_for_again(
    steadydancer: Run, hub: FakeHub, models_dir: Path
) -> None:
    steadydancer("download")
    hub.cdn_requests.clear()
    hub.hub_requests.clear()
    assert steadydancer("download").returncode == 0
    assert hub.cdn_requests == []
    assert not any("base" in asked.path for asked in hub.hub_requests)


def test_without_a_network_what_is_there_is_enough(
    steadydancer: Run, hub: FakeHub, models_dir: Path
) -> None:
    steadydancer("download")
    hub.files["maker/model/small.gguf"].error = (404, "RepoNotFound")
    done = steadydancer("download")
    assert done.returncode == 0
    assert "could not be asked" in done.stderr


def test_a_dry_run_asks_the_hub_and_writes_nothing(
    steadydancer: Run, hub: FakeHub, models_dir: Path
) -> None:
    done = steadydancer("download", "--dry-run")
    assert done.returncode == 0
    assert "would download" in done.stderr
    assert len(hub.hub_requests) == 2
    assert hub.cdn_requests == []
    assert list(models_dir.iterdir()) == []


def test_too_little_space_is_said_before_a_byte_is_fetched(
    steadydancer: Run, hub: FakeHub, models_dir: Path
) -> None:
    hub.files["maker/model/small.gguf"].stated_size = 10**16
    done = steadydancer("download", "--json")
    answer = json.loads(done.stdout)
    assert done.returncode == 1
    assert "10000000.0 GB" in answer["space"][0]
    assert hub.cdn_requests == []


def test_a_file_of_another_size_is_replaced_only_when_told_to(
    steadydancer: Run, hub: FakeHub, models_dir: Path
) -> None:
    mine = models_dir / "text_encoders" / "base.safetensors"
    mine.parent.mkdir()
    mine.write_bytes(b"somebody's own")
    done = steadydancer("download")
    assert done.returncode == 1
    assert "--replace" in done.stderr
    assert mine.read_bytes() == b"somebody's own"
    assert steadydancer("download", "--replace").returncode == 0
    assert mine.read_bytes() == BASE


def test_one_missing_file_does_not_keep_the_others_from_coming(
    steadydancer: Run, hub: FakeHub, models_dir: Path
) -> None:
    del hub.files["maker/model/small.gguf"]
    done = steadydancer("download", "--json")
    answer = json.loads(done.stdout)
    problems = {row["file"]: row["problem"] for row in answer["files"]}
    assert done.returncode == 1
    assert problems["base.safetensors"] is None
    assert "follows a pattern and was never seen" in problems["small.gguf"]
    assert "/maker/model/tree/main" in problems["small.gguf"]
    assert (models_dir / "text_encoders/base.safetensors").is_file()


def test_a_token_goes_to_the_hub_and_to_nobody_else(start: Start, hub: FakeHub) -> None:
    process = start("download", HF_TOKEN="hf_secret")
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert {asked.authorization for asked in hub.hub_requests} == {"Bearer hf_secret"}
    assert {asked.authorization for asked in hub.cdn_requests} == {None}


def test_verify_reads_the_bytes(steadydancer: Run, models_dir: Path) -> None:
    steadydancer("download")
    assert steadydancer("verify").returncode == 0
    file = models_dir / "text_encoders/base.safetensors"
    data = bytearray(BASE)
    data[1_500_000] ^= 1
    file.write_bytes(data)
    done = steadydancer("verify", "--json")
    rows = {row["file"]: row for row in json.loads(done.stdout)["files"]}
    assert done.returncode == 1
    assert "SHA-256" in rows["base.safetensors"]["problem"]
    assert rows["small.gguf"]["checked"].startswith("size only")


def test_verify_online_checks_what_the_manifest_does_not_state(
    steadydancer: Run, models_dir: Path
) -> None:
    steadydancer("download")
    file = models_dir / "diffusion_models/small.gguf"
    assert steadydancer("verify", "--online").returncode == 0
    file.write_bytes(SMALL[:-1] + bytes([SMALL[-1] ^ 1]))
    assert steadydancer("verify").returncode == 0
    done = steadydancer("verify", "--online")
    assert done.returncode == 1
    assert "WRONG  small.gguf" in done.stdout


def test_verify_names_what_is_missing(steadydancer: Run) -> None:
    done = steadydancer("verify")
    assert done.returncode == 1
    assert "It is missing" in done.stdout


def test_list_shows_states_as_json(steadydancer: Run, models_dir: Path) -> None:
    (models_dir / "clip").mkdir()
    (models_dir / "clip" / "base.safetensors").write_bytes(BASE)
    done = steadydancer("list", "--all", "--json")
    rows = {row["file"]: row for row in json.loads(done.stdout)["files"]}
    assert done.returncode == 0
    assert {name: row["state"] for name, row in rows.items()} == {
        "base.safetensors": "present",
        "small.gguf": "missing",
        "large.gguf": "missing",
    }
    assert rows["large.gguf"]["needed_by"] == ["smoke/large"]
    assert rows["base.safetensors"]["needed_by"] == ["smoke"]


def test_a_models_folder_must_be_named_and_be_there(steadydancer: Run, tmp_path: Path) -> None:
    assert steadydancer("verify", "--models-dir", str(tmp_path / "none")).returncode == 2
    done = steadydancer("verify", GATEWAY_MODELS_DIR="")
    assert done.returncode == 2
    assert "GATEWAY_MODELS_DIR" in done.stderr


@pytest.mark.parametrize("module", ["app.main", "app.cli.models"])
def test_the_hubs_library_is_not_loaded_until_it_is_needed(module: str) -> None:
    code = f"import sys, {module}; sys.exit('huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
