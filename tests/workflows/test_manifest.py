"""A broken folder is refused with the file and the key; a new folder is all a workflow takes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from app.graphcheck import validate_graph
from app.workflows.check import check
from app.workflows.manifest import ManifestError
from app.workflows.registry import Registry, load_workflows, standin_models
from app.workflows.workflow import Workflow
from tests.workflows.conftest import ROOT

GUIDE = ROOT / "docs" / "workflows.md"


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A copy of the shipped folders."""
    return Path(shutil.copytree(ROOT / "workflows", tmp_path / "workflows"))


def change(directory: Path, old: str, new: str, *, workflow: str = "steadydancer") -> None:
    file = directory / workflow / "workflow.toml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('title = "SteadyDancer"', "title = ", ""),
        ('title = "SteadyDancer"', "title = 5", "title"),
        ('title = "SteadyDancer"', 'title = "x"\nbogus = 1', "bogus"),
        ('["Sampler", "steps"]', '["Sampler 2", "steps"]', "fields.steps.bind"),
        ('["Sampler", "steps"]', '["Sampler", "step"]', "fields.steps.bind"),
        ('["Sampler", "steps"]', '["Sampler"]', "fields.steps.bind.0.1"),
        ("default = 19", "default = 99", "fields.crf.default"),
        ("default = 19", 'default = "19"', "fields.crf.default"),
        ("max = 35", 'max = "35"', "fields.crf.max"),
        ("example = 19", "example = 9", "fields.crf.example"),
        ('rules = "steadydancer"', 'rules = "waltz"', "rules"),
        ("if = { align_pose = false }", "if = { align = false }", "when.2.if"),
        ('drop = ["Write pose mp4"]', 'drop = ["Sampler"]', "when.3.drop"),
        ('"Negative pose latents", 0]', '"Nothing", 0]', "when.0.link"),
        ('variant = "q4_k_m"', 'variant = "q3_k"', "operator.variant"),
        ("[variants.fp16]", "[variants.fp32]", "options.variant"),
        ("options = { blocks_to_swap = 28,", "options = { blocks = 28,", "variants.q5_k_m.options"),
        (
            "options = { blocks_to_swap = 28,",
            "options = { blocks_to_swap = 41,",
            "variants.q5_k_m.options.blocks_to_swap",
        ),
        ('nodes = ["Sampler"]', 'nodes = ["Sampling"]', "phases.sampling"),
        ("[phases.sampling]", "[phases.dreaming]", "phases.dreaming"),
        ("[outputs.video]", "[outputs.movie]", "outputs"),
        ('node = "Write mp4"', 'node = "Write"', "outputs.video"),
        (
            'listed = [["Wan 2.1 VAE", "model_name"]]',
            'listed = [["Wan 2.1 VAE", "name"]]',
            "Wan2_1_VAE_bf16.safetensors",
        ),
        ('needed = { variant = "q4_k_m" }', 'needed = { quant = "q4_k_m" }', "models.0"),
        ("size_bytes = 254000000", "size_bytes = 0", "size_bytes"),
        ("negative_pose_height =", "negative_height =", "derived.negative_height"),
        ("if = { rope_function", "if = { rope", "vram.terms"),
        ('shape_fields = ["mode"]', 'shape_fields = ["speed"]', "shape_fields"),
        (
            'supersedes = ["frames"]',
            'supersedes = ["length"]',
            "fields.duration_seconds.supersedes",
        ),
        (
            "[low_memory]\noptions = { blocks_to_swap = 40",
            "[low_memory]\noptions = { swap = 40",
            "low_memory.options.swap",
        ),
        ("[options.tiling]", "[options.mode]", "options.mode"),
    ],
)
def test_a_broken_manifest_is_refused_with_file_and_key(
    shipped: Path, old: str, new: str, key: str
) -> None:
    change(shipped, old, new)
    with pytest.raises(ManifestError) as caught:
        load_workflows(shipped)
    assert caught.value.file == shipped / "steadydancer" / "workflow.toml"
    assert key in caught.value.key
    assert str(caught.value).startswith(str(caught.value.file))


def test_a_broken_graph_is_refused(shipped: Path) -> None:
    file = shipped / "steadydancer" / "graph.json"
    graph = json.loads(file.read_text(encoding="utf-8"))
    for broken in ("{", "[]", json.dumps({"nodes": [], "links": []})):
        file.write_text(broken, encoding="utf-8")
        with pytest.raises(ManifestError, match=r"graph\.json"):
            load_workflows(shipped)
    graph["23"]["_meta"]["title"] = "Sampler"
    file.write_text(json.dumps(graph), encoding="utf-8")
    with pytest.raises(ManifestError, match='"Sampler" is used twice'):
        load_workflows(shipped)
    file.unlink()
    with pytest.raises(ManifestError, match=r"graph\.json"):
        load_workflows(shipped)


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=re.escape(str(tmp_path))):
        load_workflows(tmp_path)


def test_a_reexported_graph_with_other_ids_renders_the_same(
    shipped: Path, dancer: Workflow
) -> None:
    file = shipped / "steadydancer" / "graph.json"
    graph = json.loads(file.read_text(encoding="utf-8"))
    renamed: dict[str, Any] = {}
    for node_id, node in graph.items():
        inputs = {
            name: [f"{value[0]}000", value[1]] if isinstance(value, list) else value
            for name, value in node["inputs"].items()
        }
        renamed[f"{node_id}000"] = {**node, "inputs": inputs}
    file.write_text(json.dumps(renamed), encoding="utf-8")
    other = load_workflows(shipped).get("steadydancer")
    files = {"reference_image": "a.png", "driving_video": "b.mp4"}
    resolved = dancer.resolve({"prompt": "x", "mode": "quality"}, {}, seed=1)
    ours = dancer.render(resolved.request, files, prefix="p")
    theirs = other.render(resolved.request, files, prefix="p")
    assert set(theirs) == {f"{node_id}000" for node_id in ours}
    for node_id, node in ours.items():
        for name, value in node["inputs"].items():
            wanted = [f"{value[0]}000", value[1]] if isinstance(value, list) else value
            assert theirs[f"{node_id}000"]["inputs"][name] == wanted


# --- operator's options --------------------------------------------------------------------------


def test_operator_options_are_taken_from_the_mapping_before_the_file(shipped: Path) -> None:
    change(shipped, 'variant = "q4_k_m"', 'variant = "q6_k"\nattention_mode = "sageattn"')
    loaded = load_workflows(
        shipped, overrides={"steadydancer": {"variant": "fp8_scaled", "blocks_to_swap": 12}}
    ).get("steadydancer")
    assert loaded.variant == "fp8_scaled"
    options = loaded.options()
    assert options["blocks_to_swap"] == 12
    assert options["attention_mode"] == "sageattn"
    assert options["quantization"] == "disabled"


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"variant": "q3_k"}, "variant"),
        ({"blocks_to_swap": 41}, "operator.blocks_to_swap"),
        ({"tiling": "yes"}, "operator.tiling"),
        ({"quantization": "fp8_e4m3fn"}, "operator.quantization"),
        ({"lora": "x"}, "operator.lora"),
    ],
)
def test_a_bad_operator_option_is_refused(options: dict[str, Any], key: str) -> None:
    with pytest.raises(ManifestError) as caught:
        load_workflows(ROOT / "workflows", overrides={"steadydancer": options})
    assert key in caught.value.key


def test_options_for_a_workflow_that_is_not_there_are_refused() -> None:
    with pytest.raises(ManifestError, match="stedydancer"):
        load_workflows(ROOT / "workflows", overrides={"stedydancer": {}})


# --- models --------------------------------------------------------------------------------------


def test_only_the_models_of_the_chosen_options_are_needed(dancer: Workflow) -> None:
    names = {model.file for model in dancer.models}
    assert len(names) == 7
    assert "Wan21_I2V_SteadyDancer_fp16-Q4_K_M_fix_5d_tensor.gguf" in names
    huge = dancer.with_options(variant="fp16", pose_model="vitpose_h", text_encoder="bf16")
    assert {model.file for model in huge.models} - names == {
        "Wan21_I2V_SteadyDancer_fp16.safetensors",
        "vitpose_h_wholebody_model.onnx",
        "vitpose_h_wholebody_data.bin",
        "umt5-xxl-enc-bf16.safetensors",
    }


def test_every_choice_of_a_model_file_has_its_entry(dancer: Workflow) -> None:
    files = {model.file for model in dancer.all_models}
    for name in ("variant", "lora_rank", "text_encoder", "pose_model"):
        spec = dancer.manifest.options[name]
        assert set(spec.values) == set(spec.choices or ())
        assert set(spec.values.values()) <= files


def test_models_that_nobody_saw_are_marked(dancer: Workflow) -> None:
    q4 = next(model for model in dancer.models if "Q4_K_M" in model.file)
    assert not q4.verified.name
    assert not q4.verified.size
    yolo = next(model for model in dancer.models if "yolo" in model.file)
    assert yolo.license == "AGPL-3.0"
    for model in dancer.all_models:
        assert model.path.endswith(model.file)
        assert model.license_note or model.license == "Apache-2.0"


def test_the_stand_in_is_told_every_file_by_node_and_input(registry: Registry) -> None:
    listed = standin_models(registry)
    assert len(listed["WanVideoModelLoader.model"]) == 6
    assert listed["OnnxDetectionModelLoader.yolo_model"] == ["yolov10m.onnx"]
    assert json.loads(json.dumps(listed)) == listed


# --- a third workflow ----------------------------------------------------------------------------


def test_the_guide_s_example_is_a_workflow_by_its_folder_alone(
    shipped: Path, engine: dict[str, Any]
) -> None:
    """The example of the guide, as a stranger would copy it."""
    text = GUIDE.read_text(encoding="utf-8")
    graph = re.search(r"```json\n(.*?)```", text, re.DOTALL)
    manifest = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert graph
    assert manifest
    folder = shipped / "slideshow"
    folder.mkdir()
    (folder / "graph.json").write_text(graph[1], encoding="utf-8")
    (folder / "workflow.toml").write_text(manifest[1], encoding="utf-8")

    registry = load_workflows(shipped)
    assert [workflow.name for workflow in registry] == ["slideshow", "smoke", "steadydancer"]
    slideshow = registry.get("slideshow")
    assert check(slideshow, engine) == ()
    assert slideshow.media == {"picture": "image"}
    resolved = slideshow.resolve({"frames": 8, "width": 320}, {}, seed=3)
    assert resolved.expects.frames == 8
    graph_made = slideshow.render(resolved.request, {"picture": "up/a.png"}, prefix="p")
    assert validate_graph(graph_made, engine) == {"error": None, "node_errors": {}}
    assert slideshow.outputs(graph_made) == {"video": "5"}
    assert graph_made["2"]["inputs"]["width"] == 320
    assert graph_made["3"]["inputs"]["amount"] == 8
    assert slideshow.estimate_mib(resolved) > 0


def test_the_guide_names_every_key_of_the_format() -> None:
    from app.workflows import manifest

    text = GUIDE.read_text(encoding="utf-8")
    for part in vars(manifest).values():
        if isinstance(part, type) and issubclass(part, manifest.Part):
            for name, info in part.model_fields.items():
                assert f"`{info.alias or name}`" in text, f"{part.__name__}.{name}"
