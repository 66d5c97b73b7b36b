"""What must never come back into the image: the defects of the document it was started from."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from app.workflows.registry import load_workflows

ROOT = Path(__file__).resolve().parent.parent.parent
DOCKER = ROOT / "docker"
DOCKERFILE = DOCKER / "Dockerfile.zr4"
RECORDED = Path(__file__).resolve().parent / "data" / "comfyui_arguments.json"
MOUNTS = ("/workspace", "/runpod-volume")


def instructions() -> list[str]:
    """The Dockerfile's instructions, each on one line, without comments."""
    lines = [
        line
        for line in DOCKERFILE.read_text(encoding="utf-8").splitlines()
        if not line.lstrip().startswith("#")
    ]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [" ".join(line.split()) for line in joined.splitlines() if line.strip()]


def of_kind(*kinds: str) -> list[str]:
    return [line for line in instructions() if line.split()[0] in kinds]


def commands() -> list[str]:
    """Every shell command of every RUN."""
    return [part.strip() for line in of_kind("RUN") for part in line[4:].split("&&")]


def test_nothing_is_copied_or_started_below_a_mount_point() -> None:
    kinds = ("COPY", "ADD", "WORKDIR", "CMD", "ENTRYPOINT", "VOLUME", "RUN", "HEALTHCHECK")
    found = [line for line in of_kind(*kinds) if any(mount in line for mount in MOUNTS)]
    assert not found


def test_the_targets_are_there_and_zr4_is_the_default() -> None:
    stages = [line.split(" AS ")[1] for line in of_kind("FROM")]
    assert {"gateway", "cpu", "modern", "zr4"} <= set(stages)
    assert stages[-1] == "zr4"


def test_the_bases_are_arguments_pinned_by_digest() -> None:
    arguments = {line.split()[1].partition("=")[0]: line for line in of_kind("ARG")}
    for name in ("BASE_IMAGE", "BUILD_BASE"):
        assert re.search(r"nvidia/cuda:12\.4\.1-\S+@sha256:[0-9a-f]{64}$", arguments[name])
    assert re.search(r"ubuntu:22\.04@sha256:[0-9a-f]{64}$", arguments["SMALL_BASE"])
    for line in of_kind("FROM"):
        source = line.split()[1]
        assert source.startswith("${") or f" AS {source}" in "\n".join(of_kind("FROM"))


@pytest.mark.parametrize("path", sorted(DOCKER.rglob("*")), ids=lambda path: path.name)
def test_no_file_speaks_of_latest_or_force_reinstall(path: Path) -> None:
    if not path.is_file() or path.suffix in {".md", ".lock"} or path.name == "runpod-create.sh":
        return
    text = path.read_text(encoding="utf-8")
    assert ":latest" not in text
    assert "--force-reinstall" not in text


def test_every_install_is_held_by_hashes() -> None:
    installs = [one for one in commands() if re.search(r"\bpip install\b", one)]
    assert len(installs) >= 6
    for one in installs:
        assert "--require-hashes" in one, one
        assert "--no-deps" in one, one
        assert re.search(r"-r \S+\.lock\b", one), one
    syncs = [one for one in commands() if " sync " in one]
    assert syncs
    assert all("--frozen" in one for one in syncs)


def test_the_gateway_has_every_extra_and_nothing_of_development() -> None:
    synced = [command for command in commands() if "uv sync" in command]
    assert len(synced) == 2
    for command in synced:
        assert {"--frozen", "--no-dev", "--all-extras"} <= set(command.split())


def test_every_environment_is_compiled_in_the_build() -> None:
    """User 1000 cannot write beside the modules, so each start would compile them again."""
    compiled = [line for line in of_kind("ENV") if "UV_COMPILE_BYTECODE=1" in line]
    assert len(compiled) == len([line for line in of_kind("ENV") if "UV_LINK_MODE" in line]) == 3


def test_every_repository_is_brought_by_commit() -> None:
    text = "\n".join(instructions())
    assert "git clone" not in text
    pins = re.findall(r"^ARG (\w+_COMMIT)=(\w+)$", text, re.MULTILINE)
    assert len(pins) == 5
    for name, commit in pins:
        assert re.fullmatch(r"[0-9a-f]{40}", commit), name
        assert f'"${name}"' in text


def test_it_runs_under_tini_with_a_health_check_and_start_sh_becomes_user_1000() -> None:
    assert not of_kind(
        "USER"
    )  # RunPod's volumes belong to root, and nobody can choose the user there
    assert of_kind("ENTRYPOINT") == ['ENTRYPOINT ["/usr/bin/tini", "--"]'] * 2
    assert of_kind("CMD") == ['CMD ["/opt/gateway/bin/start.sh"]'] * 2
    assert all("/healthz" in line for line in of_kind("HEALTHCHECK"))
    assert len(of_kind("HEALTHCHECK")) == 2
    script = (DOCKER / "start.sh").read_text(encoding="utf-8")
    last = [line.strip() for line in script.partition("\nsettle\n")[2].splitlines()]
    assert last.index("give_away") < last.index("leave_root") < last.index("lay_out")
    assert last.index("lay_out") < last.index("bring_models")
    shared = (DOCKER / "lib.sh").read_text(encoding="utf-8")
    assert "setpriv --reuid 1000 --regid 1000 --clear-groups --no-new-privs" in shared


def test_each_folder_that_compose_mounts_is_in_the_image_and_user_1000s() -> None:
    """An empty named volume takes its owner from the image's folder; without one it is root's."""
    text = (DOCKER / "docker-compose.zr4.yml").read_text(encoding="utf-8")
    mounted = set(re.findall(r"- \w+:(/data\S*)", text))
    assert mounted == {"/data/models", "/data/comfyui", "/data/gateway", "/data/hf"}
    made = [one for one in commands() if one.startswith("install -d -o 1000 -g 1000 ")]
    assert len(made) == 2
    assert all(mounted <= set(one.split()) for one in made)
    assert 'user: "1000:1000"' in text


def test_what_a_script_calls_beside_it_is_in_the_image() -> None:
    copied = " ".join(of_kind("COPY"))
    for script in DOCKER.glob("*.sh"):
        for name in re.findall(r"\$here/(\w[\w.-]*)", script.read_text(encoding="utf-8")):
            assert name.endswith(".sh") or f"docker/{name}" in copied, f"{script.name}: {name}"


def test_a_missing_hash_ends_the_build_before_mmcv_is_compiled() -> None:
    lines = instructions()
    fetch = next(n for n, line in enumerate(lines) if "flash-attn.sh fetch" in line)
    compiled = next(n for n, line in enumerate(lines) if "MMCV_WITH_OPS=1" in line)
    assert fetch < compiled
    stage = [line for line in lines[:fetch] if line.startswith("FROM ")][-1]
    assert stage.endswith(" AS flash-attn")


def test_every_action_of_the_ci_is_named_by_commit_and_version() -> None:
    text = (DOCKER / "ci" / "publish.yml").read_text(encoding="utf-8")
    uses = re.findall(r"uses: (.+)", text)
    assert len(uses) == 6
    for one in uses:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one), one


def test_no_heredoc_which_older_buildah_cannot_read() -> None:
    assert "<<" not in "\n".join(instructions())


@pytest.mark.parametrize("name", ["set-a", "set-b", "mmcv", "uv"])
def test_a_lock_has_a_hash_for_everything_and_what_its_inputs_ask_for(name: str) -> None:
    folder = DOCKER / "requirements"
    lock = (folder / f"{name}.lock").read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=[a-z0-9][\w.-]*==)", lock)[1:]
    locked = {}
    for block in blocks:
        package, version = re.match(r"([\w.-]+)==(\S+)", block).groups()  # type: ignore[union-attr]
        assert "--hash=sha256:" in block, package
        locked[package] = version
    for line in asked_for(folder / f"{name}.in"):
        package, exact = re.match(r"([\w.-]+)(?:==(\S+))?", line).groups()  # type: ignore[union-attr]
        assert package in locked, package
        assert exact in {None, locked[package]}, package


def asked_for(file: Path) -> list[str]:
    lines: list[str] = []
    for raw in file.read_text(encoding="utf-8").splitlines():
        line = raw.partition("#")[0].strip()
        if line.startswith("-r "):
            lines += asked_for(file.parent / line[3:])
        elif line:
            lines.append(line)
    return lines


def test_set_a_is_what_was_seen_to_run() -> None:
    lock = (DOCKER / "requirements" / "set-a.lock").read_text(encoding="utf-8")
    for pin in (
        "torch==2.5.1",
        "torchvision==0.20.1",
        "torchaudio==2.5.1",
        "numpy==1.26.4",
        "mmdet==3.3.0",
        "mmpose==1.3.2",
        "xtcocotools==1.14.3",
        "comfy-kitchen==0.2.7",
        "transformers==4.57.6",
        "opencv-python==4.11.0.86",
        "onnxruntime-gpu==1.23.2",
    ):
        assert f"\n{pin} " in lock, pin
    assert not re.search(r"^(chumpy|opencv-python-headless|flash-attn|mmcv)==", lock, re.MULTILINE)


def engine_arguments() -> list[str]:
    done = subprocess.run(
        [str(DOCKER / "comfyui.sh"), "--print", "127.0.0.1", "8189"],
        env={
            **os.environ,
            "DATA_DIR": "/data",
            "IMAGE_KIND": "gpu",
            "LOW_VRAM": "true",
            "COMFYUI_ARGUMENTS": str(DOCKER / "comfyui-arguments.txt"),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[2:]


def test_the_engine_arguments_are_those_that_the_pinned_comfyui_parsed() -> None:
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    assert engine_arguments() == recorded["arguments"]
    assert recorded["parsed"]["port"] == 8189
    assert recorded["parsed"]["lowvram"] is True
    assert recorded["parsed"]["output_directory"] == "/data/comfyui/output"
    names = {argument.partition("=")[0] for argument in engine_arguments()}
    assert names <= set(recorded["options"])


def test_comfyui_listens_on_loopback_without_foreign_origins() -> None:
    arguments = engine_arguments()
    assert "--listen=127.0.0.1" in arguments
    assert not any("cors" in argument for argument in arguments)


@pytest.mark.parametrize("total", [8192, 12282, 16376, 24564, 49140, 81559])
def test_every_choice_by_card_is_one_that_the_workflows_accept(total: int, tmp_path: Path) -> None:
    stand_in = tmp_path / "nvidia-smi"
    stand_in.write_text(f"#!/bin/sh\necho {total}\n", encoding="utf-8")
    stand_in.chmod(0o755)
    done = subprocess.run(
        [str(DOCKER / "start.sh"), "--dry-run"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "IMAGE_KIND": "gpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    settings = dict(line.split("=", 1) for line in done.stdout.splitlines())
    overrides = json.loads(settings["GATEWAY_WORKFLOW_OVERRIDES"])
    workflow = load_workflows(ROOT / "workflows", overrides=overrides).get("steadydancer")
    assert overrides["steadydancer"]["variant"] in workflow.manifest.variants


def test_a_serverless_worker_takes_only_the_models_from_the_volume() -> None:
    done = subprocess.run(
        [str(DOCKER / "start.sh"), "--dry-run"],
        env={
            "PATH": os.environ["PATH"],
            "IMAGE_KIND": "cpu",
            "MODE_TO_RUN": "serverless",
            "RUNPOD_MOUNTS": "/proc",  # any mount point
        },
        capture_output=True,
        text=True,
        check=True,
    )
    settings = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert settings["GATEWAY_MODELS_DIR"] == "/proc/steadydancer/models"
    assert settings["GATEWAY_DATA_DIR"] == "/data/gateway"
    assert settings["GATEWAY_COMFYUI_DIR"] == "/data/comfyui"
    assert settings["GATEWAY_HOST"] == "127.0.0.1"
    assert settings["DOWNLOAD_MODELS"] == "false"
    assert "GATEWAY_PROXY_COMMAND" not in settings


@pytest.mark.parametrize("name", ["docker-compose.zr4.yml", "docker-compose.dev.yml"])
def test_compose_binds_to_loopback_and_says_nothing_obsolete(name: str) -> None:
    text = (DOCKER / name).read_text(encoding="utf-8")
    assert not re.search(r"^\s*(version|runtime|container_name):", text, re.MULTILINE)
    ports = re.findall(r'- "([\d.:]+)"', text)
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert "healthcheck:" in text
    assert "stop_grace_period:" in text
