"""Every combination of options renders to a graph that ComfyUI accepts."""

from __future__ import annotations

import copy
import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.graphcheck import validate_graph
from app.workflows.registry import Registry
from app.workflows.workflow import Workflow
from tests.workflows.conftest import DATA, ROOT

FILES = {"reference_image": "ref.png", "driving_video": "dance.mp4"}
ACCEPTED: dict[str, Any] = {"error": None, "node_errors": {}}

SIZES: list[dict[str, Any]] = [
    {},
    *(
        {"preset": preset, "orientation": orientation}
        for preset in ("480p", "576p", "720p")
        for orientation in ("portrait", "landscape")
    ),
    {"width": 256, "height": 1280},
    {"width": 960, "height": 960},
]
LENGTHS: list[dict[str, Any]] = [
    {},
    {"frames": 5},
    {"duration_seconds": 2},
    {"long": True},
    {"long": True, "frames": 85},
]
FLAGS = ("align_pose", "driving_video_is_pose", "keep_audio")


def rendered(
    workflow: Workflow, request: Mapping[str, Any], *, low_memory: bool = False
) -> dict[str, Any]:
    resolved = workflow.resolve({"prompt": "a dance", **request}, {}, seed=42)
    return workflow.render(resolved.request, FILES, prefix="job", low_memory=low_memory)


def by_title(graph: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {node["_meta"]["title"]: node["inputs"] for node in graph.values()}


def pairwise(parameters: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Cases in which every two values of any two parameters meet at least once."""
    names = list(parameters)
    open_pairs = {
        (a, i, b, j)
        for a, b in itertools.combinations(names, 2)
        for i in range(len(parameters[a]))
        for j in range(len(parameters[b]))
    }
    chance = random.Random(7)
    while open_pairs:
        a, i, b, j = min(open_pairs)
        best: dict[str, int] = {}
        most = -1
        for _ in range(20):
            case = {name: chance.randrange(len(parameters[name])) for name in names}
            case[a], case[b] = i, j
            covered = sum(
                (x, case[x], y, case[y]) in open_pairs for x, y in itertools.combinations(names, 2)
            )
            if covered > most:
                best, most = case, covered
        open_pairs -= {(x, best[x], y, best[y]) for x, y in itertools.combinations(names, 2)}
        yield {name: parameters[name][index] for name, index in best.items()}


def test_all_modes_sizes_lengths_and_flags_are_accepted(
    dancer: Workflow, engine: dict[str, Any]
) -> None:
    count = 0
    for mode, size, length in itertools.product(("fast", "quality"), SIZES, LENGTHS):
        for flags in itertools.product((True, False), repeat=len(FLAGS)):
            request = {"mode": mode, **size, **length, **dict(zip(FLAGS, flags, strict=True))}
            assert validate_graph(rendered(dancer, request), engine) == ACCEPTED, request
            count += 1
    assert count == 2 * 9 * 5 * 8


def test_every_pair_of_request_and_operator_options_is_accepted(
    dancer: Workflow, engine: dict[str, Any]
) -> None:
    options = dancer.manifest.options
    operator: dict[str, Sequence[Any]] = {
        name: spec.choices or (True, False)
        for name, spec in options.items()
        if spec.choices or spec.type == "boolean"
    }
    operator |= {
        "blocks_to_swap": (0, 25, 40),
        "prefetch_blocks": (0, 40),
        "lora_strength": (0.1, 2.0),
    }
    assert set(operator) == set(options), "an option is not varied"
    request: dict[str, Sequence[Any]] = {
        "mode": ("fast", "quality"),
        "size": SIZES,
        "length": LENGTHS,
        "scheduler": (None, "dpm++_sde", "unipc", "euler"),
        "face_points": ("none", "weak", "full"),
        "shift": (1.0, 12.0),
        "crf": (10, 35),
        "fps": (8, 16, 30),
        "seed": (0, 2**53 - 1),
        "pose_strength_spatial": (0.0, 2.0),
        "pose_strength_temporal": (0.0, 2.0),
        "window": ((0.0, 1.0), (0.3, 0.3)),
        "low_memory": (True, False),
        **dict.fromkeys(FLAGS, (True, False)),
    }
    seen: set[str] = set()
    for case in pairwise({**operator, **request}):
        chosen = dancer.with_options(**{name: case[name] for name in operator})
        start, end = case["window"]
        asked = {"pose_start": start, "pose_end": end, **case["size"], **case["length"]}
        plain = set(request) - {"size", "length", "window", "low_memory"}
        asked |= {name: case[name] for name in plain}
        graph = rendered(chosen, asked, low_memory=case["low_memory"])
        assert validate_graph(graph, engine) == ACCEPTED, case
        seen.add(by_title(graph)["SteadyDancer model"]["model"])
    assert len(seen) == len(dancer.manifest.variants)


def test_default_request_renders_the_graph_that_a_real_server_accepted(dancer: Workflow) -> None:
    reference = json.loads((DATA / "steadydancer.reference.json").read_text(encoding="utf-8"))
    resolved = dancer.resolve({"prompt": "a person is dancing"}, {}, seed=42)
    graph = dancer.render(resolved.request, FILES, prefix="steadydancer")

    def plain(nodes: dict[str, Any]) -> dict[str, Any]:
        return {key: (node["class_type"], node["inputs"]) for key, node in nodes.items()}

    ours, theirs = plain(graph), plain(reference)
    assert set(ours) - set(theirs) == {"91"}, "only the pose artifact is added"
    assert ours.pop("91")[0] == "VHS_VideoCombine"
    # The differences that are meant: the image's PyTorch 2.5 raises on fp16_fast, the model's own
    # negative prompt for image to video has a prefix, and audio is kept by default.
    theirs["62"][1]["base_precision"] = "fp16"
    ours_negative = ours["30"][1]["negative_prompt"]
    assert ours_negative[5:] == theirs["30"][1]["negative_prompt"]
    theirs["30"][1]["negative_prompt"] = ours_negative
    theirs["90"][1]["audio"] = ["11", 2]
    assert ours == theirs


def test_quality_mode_drops_the_lora_and_wires_a_negative_pose(dancer: Workflow) -> None:
    graph = rendered(dancer, {"mode": "quality", "preset": "576p"})
    nodes = by_title(graph)
    assert "Distill LoRA" not in nodes
    assert nodes["Sampler"]["model"] == ["63", 0]
    assert (nodes["Sampler"]["steps"], nodes["Sampler"]["cfg"]) == (30, 5.0)
    assert nodes["SteadyDancer condition"]["pose_latents_negative"] == ["46", 0]
    assert nodes["Negative pose latents"]["image"] != nodes["Pose latents"]["image"]
    assert nodes["Negative pose: room above"]["height"] == 1280


def test_fast_mode_has_no_negative_pose_and_no_windows(dancer: Workflow) -> None:
    nodes = by_title(rendered(dancer, {}))
    assert "Negative pose latents" not in nodes
    assert "pose_latents_negative" not in nodes["SteadyDancer condition"]
    assert "Context windows" not in nodes


def test_more_than_81_frames_are_sampled_in_context_windows(dancer: Workflow) -> None:
    nodes = by_title(rendered(dancer, {"long": True, "frames": 161}))
    assert nodes["Sampler"]["context_options"] == ["71", 0]
    assert nodes["Driving dance video"]["frame_load_cap"] == 161


def test_a_pose_video_is_fed_in_without_detection(dancer: Workflow) -> None:
    graph = rendered(dancer, {"driving_video_is_pose": True})
    nodes = by_title(graph)
    assert "ViTPose + YOLO" not in nodes
    assert nodes["Fit pose frames"]["image"] == ["12", 0]
    assert dancer.outputs(graph) == {"video": "90"}


def test_the_pose_video_is_an_output_when_detection_runs(dancer: Workflow) -> None:
    graph = rendered(dancer, {})
    assert dancer.outputs(graph) == {"video": "90", "pose": "91"}
    nodes = by_title(graph)
    assert nodes["Write mp4"]["filename_prefix"] == "job"
    assert nodes["Write pose mp4"]["filename_prefix"] == "job_pose"
    assert nodes["Write pose mp4"]["audio"] == ["11", 2], "a rerun from it keeps its sound"
    assert dancer.output_files("pose", prefix="job") == (
        "job_pose_00001-audio.mp4",
        "job_pose_00001.mp4",
    )


def test_the_engine_neither_skips_nor_resamples_a_prepared_video(dancer: Workflow) -> None:
    loader = by_title(rendered(dancer, {"start_seconds": 3.5, "fps": 24}))["Driving dance video"]
    assert loader["skip_first_frames"] == 0
    assert loader["force_rate"] == 24
    assert loader["select_every_nth"] == 1


def test_low_memory_swaps_all_blocks_and_tiles(dancer: Workflow) -> None:
    graph = rendered(dancer, {"mode": "quality"}, low_memory=True)
    nodes = by_title(graph)
    assert nodes["Block swap"]["blocks_to_swap"] == 40
    for title in ("Decode", "Pose latents", "Negative pose latents"):
        assert nodes[title]["enable_vae_tiling"] is True
    assert nodes["I2V first-frame latents"]["tiled_vae"] is True
    assert nodes["Sampler"]["rope_function"] == "comfy_chunked"


@pytest.mark.parametrize(
    "prompt",
    [
        "she said \"hello\" and 'bye'",
        "{{seed}} {prompt} ${HOME} %s %(x)s {0}",
        "dancing 💃🏽 踊る 👨‍👩‍👧",
        "x" * 2000,
        '["12", 0]',
        '{"class_type": "LoadImage"}',
        "line one\nline two\t\\n",
    ],
)
def test_a_prompt_arrives_as_the_text_it_is(dancer: Workflow, prompt: str) -> None:
    graph = rendered(dancer, {"prompt": prompt, "negative_prompt": prompt})
    sent = json.loads(json.dumps(graph))
    assert by_title(sent)["Prompt (umT5-XXL)"]["positive_prompt"] == prompt
    assert by_title(sent)["Prompt (umT5-XXL)"]["negative_prompt"] == prompt
    assert set(graph) == set(rendered(dancer, {"prompt": "plain"}))


@settings(max_examples=60, deadline=None)
@given(
    prompt=st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\x00"),
        min_size=1,
        max_size=200,
    )
)
def test_any_text_arrives_unchanged(dancer: Workflow, prompt: str) -> None:
    nodes = by_title(rendered(dancer, {"prompt": prompt}))
    assert nodes["Prompt (umT5-XXL)"]["positive_prompt"] == prompt


def test_rendering_changes_neither_the_graph_nor_its_file(registry: Registry) -> None:
    for workflow in registry:
        file = ROOT / "workflows" / workflow.name / "graph.json"
        before, kept = file.read_bytes(), copy.deepcopy(workflow.graph)
        request = {"mode": "quality"} if workflow.name == "steadydancer" else {}
        prompt = {"prompt": "x"} if workflow.name == "steadydancer" else {}
        resolved = workflow.resolve({**prompt, **request}, {}, seed=1)
        first = workflow.render(resolved.request, FILES, prefix="a", low_memory=True)
        first_node = next(iter(first.values()))
        first_node["inputs"]["image"] = "changed by a caller"
        assert workflow.graph == kept
        assert file.read_bytes() == before


def test_two_attempts_differ_only_in_their_prefix(dancer: Workflow) -> None:
    resolved = dancer.resolve({"prompt": "x"}, {}, seed=5)
    one = dancer.render(resolved.request, FILES, prefix="attempt-1")
    two = dancer.render(resolved.request, FILES, prefix="attempt-2")
    differing = {
        (key, name)
        for key, node in one.items()
        for name, value in node["inputs"].items()
        if two[key]["inputs"][name] != value
    }
    assert differing == {("90", "filename_prefix"), ("91", "filename_prefix")}


def test_smoke_is_accepted_at_any_size(registry: Registry, engine: dict[str, Any]) -> None:
    smoke = registry.get("smoke")
    for width, frames in itertools.product((32, 64, 1280), (1, 17, 241)):
        resolved = smoke.resolve({"width": width, "frames": frames, "fps": 60}, {}, seed=0)
        graph = smoke.render(resolved.request, FILES, prefix="smoke")
        assert validate_graph(graph, engine) == ACCEPTED
        assert resolved.expects.frames == frames + 1, "the picture goes first"


def test_shares_of_a_graph_add_up_and_name_the_sampler(registry: Registry) -> None:
    for workflow in registry:
        prompt = {"prompt": "x"} if workflow.name == "steadydancer" else {}
        resolved = workflow.resolve(prompt, {}, seed=1)
        graph = workflow.render(resolved.request, FILES, prefix="a")
        shares = workflow.shares(graph)
        assert set(shares) == set(graph)
        assert sum(share.share for share in shares.values()) == pytest.approx(1)
        assert all(share.share > 0 for share in shares.values())
    assert workflow.shares(graph)["70"].phase == "sampling"
    assert workflow.shares(graph)["70"].share > 0.5


def test_every_node_of_the_shipped_graphs_has_a_phase(registry: Registry) -> None:
    for workflow in registry:
        named = {title for spec in workflow.manifest.phases.values() for title in spec.nodes}
        assert named == set(by_title(workflow.graph))
