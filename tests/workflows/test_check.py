"""What an engine lacks is named exactly; graphs are judged as ComfyUI judges them."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from app.graphcheck import validate_graph
from app.wire import MissingPart
from app.workflows.check import check
from app.workflows.registry import Registry
from app.workflows.workflow import Workflow
from tests.workflows.conftest import DATA, RECORDINGS, recorded

Q4 = "Wan21_I2V_SteadyDancer_fp16-Q4_K_M_fix_5d_tensor.gguf"


def parts(found: tuple[MissingPart, ...]) -> set[tuple[str, str]]:
    return {(part.kind, part.name) for part in found}


@pytest.mark.parametrize("recording", RECORDINGS)
def test_the_recorded_engines_can_run_both_workflows(registry: Registry, recording: str) -> None:
    for workflow in registry:
        assert check(workflow, recorded(recording)) == ()


def test_a_missing_node_is_named(dancer: Workflow, engine: dict[str, Any]) -> None:
    del (info := copy.deepcopy(engine))["WanVideoAddSteadyDancerEmbeds"]
    (part,) = check(dancer, info)
    assert (part.kind, part.name) == ("node", "WanVideoAddSteadyDancerEmbeds")
    assert "SteadyDancer condition" in part.detail


def test_an_input_that_the_engine_lacks_or_newly_asks_for_is_named(
    dancer: Workflow, engine: dict[str, Any]
) -> None:
    info = copy.deepcopy(engine)
    inputs = info["WanVideoAddSteadyDancerEmbeds"]["input"]
    del inputs["optional"]["pose_latents_negative"]
    inputs["required"]["new_thing"] = ["FLOAT", {}]
    assert parts(check(dancer, info)) == {
        ("input", "WanVideoAddSteadyDancerEmbeds.pose_latents_negative"),
        ("input", "WanVideoAddSteadyDancerEmbeds.new_thing"),
    }


def test_an_input_of_a_file_format_is_known(dancer: Workflow, engine: dict[str, Any]) -> None:
    info = copy.deepcopy(engine)
    formats = info["VHS_VideoCombine"]["input"]["required"]["format"][1]["formats"]
    formats["video/h264-mp4"] = [f for f in formats["video/h264-mp4"] if f[0] != "crf"]
    assert parts(check(dancer, info)) == {("input", "VHS_VideoCombine.crf")}


def test_a_missing_model_is_named_with_its_source(dancer: Workflow, engine: dict[str, Any]) -> None:
    info = copy.deepcopy(engine)
    info["WanVideoModelLoader"]["input"]["required"]["model"][0].remove(Q4)
    (part,) = check(dancer, info)
    assert (part.kind, part.name) == ("model", Q4)
    assert "MCG-NJU/SteadyDancer-GGUF" in part.detail
    assert "models/diffusion_models" in part.detail
    assert "was not seen" in part.detail
    assert check(dancer.with_options(variant="q5_k_m"), info) == ()


def test_only_the_chosen_variant_needs_its_file(dancer: Workflow) -> None:
    plain = recorded(RECORDINGS[0])
    assert parts(check(dancer.with_options(variant="q8_0"), plain)) == {
        ("model", "Wan21_I2V_SteadyDancer_fp16-Q8_0_fix_5d_tensor.gguf")
    }
    assert parts(check(dancer.with_options(lora_rank="rank32"), plain)) == {
        ("model", "lightx2v_I2V_14B_480p_cfg_step_distill_rank32_bf16.safetensors")
    }


def test_a_model_in_a_subfolder_is_recognized(dancer: Workflow, engine: dict[str, Any]) -> None:
    info = copy.deepcopy(engine)
    listed = info["WanVideoModelLoader"]["input"]["required"]["model"][0]
    listed[listed.index(Q4)] = f"SteadyDancer/{Q4}"
    (part,) = check(dancer, info)
    assert f"listed as SteadyDancer/{Q4}" in part.detail


def test_the_onnx_trap_is_explained(dancer: Workflow, engine: dict[str, Any]) -> None:
    info = copy.deepcopy(engine)
    for name in ("vitpose_model", "yolo_model"):
        info["OnnxDetectionModelLoader"]["input"]["required"][name][0] = [
            "vitpose_h_wholebody_data.bin"
        ]
    found = check(dancer, info)
    assert parts(found) == {("model", "vitpose-l-wholebody.onnx"), ("model", "yolov10m.onnx")}
    assert all("0.23.0" in part.detail for part in found)


def test_a_single_missing_onnx_file_is_not_taken_for_the_trap(
    dancer: Workflow, engine: dict[str, Any]
) -> None:
    info = copy.deepcopy(engine)
    info["OnnxDetectionModelLoader"]["input"]["required"]["yolo_model"][0] = ["other.onnx"]
    (part,) = check(dancer, info)
    assert "0.23.0" not in part.detail
    assert "models download" in part.detail


def test_a_choice_that_the_engine_does_not_list_is_named(
    dancer: Workflow, engine: dict[str, Any]
) -> None:
    info = copy.deepcopy(engine)
    info["WanVideoSampler"]["input"]["required"]["scheduler"][0].remove("unipc")
    info["WanVideoSampler"]["input"]["optional"]["rope_function"][0].remove("comfy_chunked")
    assert parts(check(dancer, info)) == {
        ("input", "WanVideoSampler.scheduler=unipc"),
        ("input", "WanVideoSampler.rope_function=comfy_chunked"),
    }


def test_an_engine_without_anything_lacks_every_node(dancer: Workflow) -> None:
    wanted = {("node", node["class_type"]) for node in dancer.graph.values()}
    assert parts(check(dancer, {})) == wanted


# --- validation as ComfyUI does it ---------------------------------------------------------------

CASES = json.loads((DATA / "validation_errors.json").read_text(encoding="utf-8"))["cases"]
NOT_JUDGED = {
    "LoadImage file missing",
    "LoadVideo file missing",
    "SteadyDancer graph: driving video not uploaded",
    "one good output and one bad output: accepted with 200 and non-empty node_errors",
    "bad prompt_id",
}
"""Cases about uploaded files, which count as present here, and about the envelope."""


@pytest.mark.parametrize(
    "case", [case for case in CASES if case["case"] not in NOT_JUDGED], ids=lambda c: c["case"]
)
def test_a_graph_is_judged_as_the_real_server_judged_it(case: dict[str, Any]) -> None:
    verdict = validate_graph(case["graph"], recorded(RECORDINGS[0]))
    answer = case["answer"]
    if case["status"] == 200:
        assert verdict == {"error": None, "node_errors": {}}
        return
    for part in ("type", "message", "details"):
        assert verdict["error"][part] == answer["error"][part]

    def told(node_errors: dict[str, Any]) -> dict[str, Any]:
        return {
            node_id: (
                entry["class_type"],
                entry["dependent_outputs"],
                sorted((e["type"], e["message"], e["details"]) for e in entry["errors"]),
            )
            for node_id, entry in node_errors.items()
        }

    assert told(verdict["node_errors"]) == told(answer["node_errors"])


def test_one_bad_output_beside_a_good_one_is_told(engine: dict[str, Any]) -> None:
    graph = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
        },
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
    }
    verdict = validate_graph(graph, engine)
    assert verdict["error"] is None
    assert set(verdict["node_errors"]) == {"3"}
