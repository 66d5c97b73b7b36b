"""What a SteadyDancer request resolves to, and the words of its refusals."""

from __future__ import annotations

from typing import Any, Literal

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import FieldError, InvalidRequest, UnknownWorkflow
from app.wire import MediaFacts, UploadRef
from app.workflows.registry import Registry
from app.workflows.values import MediaPlan, Resolved
from app.workflows.workflow import Workflow


def video(
    *, frames: int = 300, fps: float = 30.0, audio: bool = True, width: int = 1080
) -> MediaFacts:
    return MediaFacts(
        kind="video",
        media_type="video/mp4",
        width=width,
        height=1920,
        frames=frames,
        fps=fps,
        duration_seconds=frames / fps,
        has_audio=audio,
    )


def image(width: int, height: int) -> MediaFacts:
    return MediaFacts(kind="image", media_type="image/png", width=width, height=height, frames=1)


def resolve(
    workflow: Workflow, media: dict[str, MediaFacts] | None = None, **asked: object
) -> Resolved:
    return workflow.resolve({"prompt": "a dance", **asked}, media or {}, seed=7)


def faults(
    workflow: Workflow, media: dict[str, MediaFacts] | None = None, **asked: object
) -> tuple[FieldError, ...]:
    with pytest.raises(InvalidRequest) as caught:
        resolve(workflow, media, **asked)
    return caught.value.errors


# --- defaults --------------------------------------------------------------------------------


def test_defaults_are_those_of_the_contract(dancer: Workflow) -> None:
    resolved = resolve(dancer)
    asked = dict(resolved.request)
    assert asked.pop("negative_prompt").startswith("镜头晃动")
    assert asked == {
        "prompt": "a dance",
        "width": 480,
        "height": 832,
        "frames": 81,
        "fps": 16,
        "start_seconds": 0.0,
        "long": False,
        "mode": "fast",
        "steps": 4,
        "cfg": 1.0,
        "shift": 5.0,
        "scheduler": "dpm++_sde",
        "seed": 7,
        "pose_strength_spatial": 1.0,
        "pose_strength_temporal": 1.0,
        "pose_start": 0.0,
        "pose_end": 1.0,
        "align_pose": True,
        "face_points": "weak",
        "driving_video_is_pose": False,
        "keep_audio": True,
        "prompt_in_video": False,
        "crf": 19,
    }
    assert resolved.warnings == ()
    assert resolved.steps == 4
    assert resolved.shape.key == "steadydancer/q4_k_m+fast/480x832x81"
    assert set(dancer.defaults()) == set(resolved.request) - {"prompt", "seed"}


def test_quality_mode_has_its_own_defaults_and_says_that_it_is_experimental(
    dancer: Workflow,
) -> None:
    resolved = resolve(dancer, mode="quality")
    wanted = {"steps": 30, "cfg": 5.0, "shift": 5.0, "scheduler": "unipc"}
    assert wanted.items() <= resolved.request.items()
    assert "experimental" in resolved.warnings[0]


def test_null_means_the_default(dancer: Workflow) -> None:
    assert resolve(dancer, width=None, mode=None, crf=None).request == resolve(dancer).request


def test_the_given_seed_is_kept(dancer: Workflow) -> None:
    assert resolve(dancer, seed=0).request["seed"] == 0
    assert resolve(dancer, seed=2**53 - 1).request["seed"] == 2**53 - 1


# --- size ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((400, 300), (832, 480)), ((300, 400), (480, 832)), ((300, 300), (480, 832))],
)
def test_orientation_comes_from_the_reference_image(
    dancer: Workflow, size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    resolved = resolve(dancer, {"reference_image": image(*size)})
    assert (resolved.request["width"], resolved.request["height"]) == wanted


@pytest.mark.parametrize(
    ("preset", "short", "long"), [("480p", 480, 832), ("576p", 576, 1024), ("720p", 720, 1280)]
)
def test_presets_turn_as_asked(dancer: Workflow, preset: str, short: int, long: int) -> None:
    wide = resolve(
        dancer, {"reference_image": image(3, 4)}, preset=preset, orientation="landscape"
    ).request
    assert (wide["width"], wide["height"]) == (long, short)
    assert not {"preset", "orientation"} & wide.keys()


@settings(max_examples=150, deadline=None)
@given(width=st.integers(200, 1400), height=st.integers(200, 1400))
def test_exactly_the_legal_sizes_are_taken_and_hints_work(
    dancer: Workflow, width: int, height: int
) -> None:
    sides = (width, height)
    legal = all(s % 16 == 0 and 256 <= s <= 1280 for s in sides) and width * height <= 921_600
    if legal:
        expects = resolve(dancer, width=width, height=height).expects
        assert (expects.width, expects.height) == sides
        return
    for fault in faults(dancer, width=width, height=height):
        assert fault.pointer in {"/request/width", "/request/height"}
        if "nearest" in fault.detail:
            hinted = fault.detail.rstrip(".").replace(",", "").split()[-1]
            name = fault.pointer.rsplit("/", 1)[1]
            other = 256
            both: dict[str, Any] = {"width": other, "height": other, name: int(hinted)}
            assert resolve(dancer, **both).request[name] == int(hinted)


def test_too_large_an_area_is_refused_with_the_greatest_side_that_works(dancer: Workflow) -> None:
    (fault,) = faults(dancer, width=1280, height=736)
    assert fault.pointer == "/request/height"
    assert "942,080" in fault.detail
    assert "at most 720" in fault.detail
    assert resolve(dancer, width=1280, height=720).request["height"] == 720


def test_size_is_given_in_one_way_only(dancer: Workflow) -> None:
    assert faults(dancer, width=480)[0].pointer == "/request/height"
    assert faults(dancer, preset="480p", width=480, height=832)[0].pointer == "/request/preset"
    (fault,) = faults(dancer, width=480, height=832, orientation="landscape")
    assert fault.pointer == "/request/orientation"


def test_a_size_across_the_picture_is_warned_of(dancer: Workflow) -> None:
    resolved = resolve(dancer, {"reference_image": image(400, 300)}, width=480, height=832)
    assert "cropped" in resolved.warnings[0]


# --- length ----------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(frames=st.integers(-3, 260), long=st.booleans())
def test_exactly_the_legal_frame_counts_are_taken(
    dancer: Workflow, frames: int, *, long: bool
) -> None:
    if frames % 4 == 1 and 5 <= frames <= (241 if long else 81):
        assert resolve(dancer, frames=frames, long=long).expects.frames == frames
    else:
        (fault,) = faults(dancer, frames=frames, long=long)
        assert fault.pointer == "/request/frames"
        assert str(frames) in fault.detail


@settings(max_examples=150, deadline=None)
@given(
    count=st.integers(1, 900),
    rate=st.sampled_from([8.0, 15.0, 23.976, 29.97, 30.0, 60.0]),
    fps=st.integers(8, 30),
    start=st.floats(0, 12),
    frames=st.sampled_from([None, 5, 49, 81]),
)
def test_output_never_has_more_frames_than_the_video_and_stays_legal(
    dancer: Workflow, count: int, rate: float, fps: int, start: float, frames: int | None
) -> None:
    facts = video(frames=count, fps=rate)
    asked: dict[str, Any] = {"fps": fps, "start_seconds": start, "frames": frames}
    try:
        resolved = resolve(dancer, {"driving_video": facts}, **asked)
    except InvalidRequest as refusal:
        (fault,) = refusal.errors
        if fault.pointer == "/request/start_seconds":
            assert start >= count / rate
        else:
            assert fault.pointer == "/request/driving_video"
            assert (count / rate - start) * fps <= 4 + 1e-5
        return
    made = resolved.request["frames"]
    assert made % 4 == 1
    assert 5 <= made <= (frames or 81)
    # The last frame shows a moment inside the video, and four more would not (or were not asked).
    assert start + (made - 1) / fps < count / rate
    assert made == (frames or 81) or start + (made + 3) / fps >= count / rate - 1e-5


def test_a_video_shorter_than_asked_gives_fewer_frames_and_says_so(dancer: Workflow) -> None:
    short = {"driving_video": video(frames=60, fps=30)}
    resolved = resolve(dancer, short, frames=81)
    assert resolved.request["frames"] == 29
    assert "29 frames instead of 81" in resolved.warnings[0]
    assert resolved.media_plan["driving_video"].frames == 29
    assert resolve(dancer, short).request["frames"] == 29
    assert resolve(dancer, short).warnings == ()


def test_a_video_without_usable_frames_is_refused(dancer: Workflow) -> None:
    (fault,) = faults(dancer, {"driving_video": video(frames=6, fps=30)})
    assert fault.pointer == "/request/driving_video"
    assert "4 usable frames" in fault.detail
    (fault,) = faults(dancer, {"driving_video": video(frames=0, fps=30)}, start_seconds=0.0)
    assert "0.00 s long" in fault.detail


def test_a_start_behind_the_end_is_refused(dancer: Workflow) -> None:
    (fault,) = faults(dancer, {"driving_video": video()}, start_seconds=10)
    assert fault.pointer == "/request/start_seconds"
    assert "10.00 s long" in fault.detail


def test_duration_becomes_the_nearest_legal_frame_count(dancer: Workflow) -> None:
    assert resolve(dancer, duration_seconds=5).request["frames"] == 81
    assert resolve(dancer, duration_seconds=5, fps=8).request["frames"] == 41
    assert resolve(dancer, duration_seconds=10, long=True).request["frames"] == 161
    assert "duration_seconds" not in resolve(dancer, duration_seconds=5).request
    (fault,) = faults(dancer, duration_seconds=8)
    assert fault.pointer == "/request/duration_seconds"
    assert "long: true" in fault.detail
    (fault,) = faults(dancer, duration_seconds=5, frames=81)
    assert fault.pointer == "/request/duration_seconds"


def test_long_takes_all_there_is_and_says_what_it_costs(dancer: Workflow) -> None:
    media = {"driving_video": video(frames=300, fps=30)}
    resolved = resolve(dancer, media, long=True)
    assert resolved.request["frames"] == 157
    assert "3 overlapping windows" in resolved.warnings[0]
    assert resolve(dancer, long=True).request["frames"] == 241
    assert "no effect" in resolve(dancer, long=True, frames=81).warnings[0]
    brief = {"driving_video": video(frames=60, fps=30)}
    assert resolve(dancer, brief, long=True).request["frames"] == 29


# --- mode ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "field", "hint"),
    [
        ({"cfg": 2.0}, "cfg", "quality"),
        ({"steps": 3}, "steps", "4 to 8"),
        ({"steps": 9}, "steps", "4 to 8"),
        ({"mode": "quality", "steps": 8}, "steps", "20 to 50"),
        ({"mode": "quality", "cfg": 0.5}, "cfg", "1 to 10"),
        ({"mode": "quality", "scheduler": "lcm"}, "scheduler", "unipc"),
        ({"scheduler": "dpm++"}, "scheduler", "dpm++_sde"),
        ({"pose_start": 0.8, "pose_end": 0.2}, "pose_start", "greater"),
    ],
)
def test_settings_against_the_mode_are_refused(
    dancer: Workflow, asked: dict[str, Any], field: str, hint: str
) -> None:
    (fault,) = faults(dancer, **asked)
    assert fault.pointer == f"/request/{field}"
    assert hint in fault.detail


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"negative_prompt": "ugly"}, "negative_prompt has no effect"),
        ({"mode": "quality", "cfg": 1.0}, "negative pose has no effect"),
        ({"fps": 24}, "made for 16"),
        ({"driving_video_is_pose": True, "align_pose": False}, "align_pose has no effect"),
        ({"driving_video_is_pose": True, "face_points": "full"}, "face_points has no effect"),
        ({"pose_start": 0.5, "pose_end": 0.5}, "pose_start equals pose_end"),
    ],
)
def test_settings_without_effect_are_warned_of(
    dancer: Workflow, asked: dict[str, Any], words: str
) -> None:
    assert any(words in warning for warning in resolve(dancer, **asked).warnings)


def test_audio_is_kept_only_where_there_is_some(dancer: Workflow) -> None:
    silent = {"driving_video": video(audio=False)}
    assert resolve(dancer, {"driving_video": video()}).request["keep_audio"] is True
    resolved = resolve(dancer, silent)
    assert resolved.request["keep_audio"] is False
    assert resolved.warnings == ()
    assert "no audio" in resolve(dancer, silent, keep_audio=True).warnings[0]


# --- strictness ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", "480"),
        ("width", 480.0),
        ("width", True),
        ("width", [480]),
        ("frames", 80.5),
        ("seed", True),
        ("seed", -1),
        ("seed", 2**53),
        ("seed", 10**400),
        pytest.param("seed", 10**5000, id="seed-of-5000-digits"),
        ("fps", "16"),
        ("fps", 7.9),
        ("fps", 23.976),
        ("fps", 31),
        ("fps", float("nan")),
        ("fps", float("inf")),
        ("fps", True),
        ("long", 1),
        ("long", "true"),
        ("keep_audio", 0),
        ("mode", "FAST"),
        ("mode", 1),
        ("preset", "1080p"),
        ("orientation", ""),
        ("face_points", True),
        ("crf", 9),
        ("crf", 36),
        ("prompt", ""),
        ("prompt", "x" * 2001),
        ("prompt", 5),
        ("prompt", "a\x00b"),
        ("prompt", "\ud800"),
        ("negative_prompt", "x" * 2001),
        ("shift", 0.9),
        ("pose_strength_spatial", 2.1),
        ("pose_strength_temporal", -0.1),
        ("pose_end", 1.1),
        ("start_seconds", -1),
        ("duration_seconds", 0),
        ("scheduler", {"a": 1}),
    ],
)
def test_a_wrong_value_is_refused_at_its_pointer(
    dancer: Workflow, field: str, value: object
) -> None:
    asked: dict[str, Any] = {field: value}
    (fault,) = faults(dancer, **asked)
    assert fault.pointer == f"/request/{field}"
    assert len(fault.detail) < 400
    assert field in fault.detail


def test_unknown_fields_are_refused_with_the_name_that_was_meant(dancer: Workflow) -> None:
    (fault,) = faults(dancer, heigth=832)
    assert fault.pointer == "/request/heigth"
    assert 'did you mean "height"' in fault.detail


def test_a_missing_prompt_is_named(dancer: Workflow) -> None:
    with pytest.raises(InvalidRequest) as caught:
        dancer.resolve({}, {}, seed=1)
    assert caught.value.errors[0].pointer == "/request/prompt"


def test_all_faults_are_told_at_once(dancer: Workflow) -> None:
    pointers = {fault.pointer for fault in faults(dancer, width=1, crf=99, mode="slow")}
    assert pointers == {"/request/width", "/request/crf", "/request/mode"}
    pointers = {fault.pointer for fault in faults(dancer, cfg=3.0, steps=20, frames=85)}
    assert pointers == {"/request/cfg", "/request/steps", "/request/frames"}


# --- resolving again -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"mode": "quality"},
        {"preset": "720p", "orientation": "landscape"},
        {"duration_seconds": 3},
        {"long": True},
        {"driving_video_is_pose": True},
    ],
)
def test_a_resolved_request_resolves_to_itself(dancer: Workflow, asked: dict[str, Any]) -> None:
    media = {"driving_video": video(audio=False), "reference_image": image(4, 3)}
    first = resolve(dancer, media, **asked)
    again = dancer.resolve(first.request, media, seed=99)
    assert again.request == first.request
    assert dancer.resolve(first.request, {}, seed=99).request == first.request


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        ({"preset": "720p"}, {"width": 720, "height": 1280}),
        ({"orientation": "landscape"}, {"width": 1024, "height": 576}),
        ({"width": 256, "height": 256}, {"width": 256, "height": 256}),
        ({"mode": "quality"}, {"steps": 30, "cfg": 5.0, "scheduler": "unipc"}),
        ({"mode": "quality", "steps": 40}, {"steps": 40, "cfg": 5.0}),
        ({"duration_seconds": 2}, {"frames": 33}),
        ({"long": True}, {"frames": 241}),
        ({"seed": None}, {"seed": 99}),
        ({"prompt": "another"}, {"prompt": "another", "seed": 7, "width": 576}),
    ],
)
def test_a_rerun_changes_what_the_override_supersedes(
    dancer: Workflow, overrides: dict[str, Any], wanted: dict[str, Any]
) -> None:
    first = resolve(dancer, preset="576p", steps=6).request
    again = dancer.resolve(dancer.merge(first, overrides), {}, seed=99).request
    assert wanted.items() <= again.items()


# --- media -----------------------------------------------------------------------------------


def test_the_plan_cuts_converts_and_keeps_audio(dancer: Workflow) -> None:
    resolved = resolve(dancer, {"driving_video": video()}, start_seconds=1.5, fps=24, frames=49)
    assert resolved.media_plan == {
        "reference_image": MediaPlan(kind="image", width=480, height=832),
        "driving_video": MediaPlan(
            kind="video",
            start_seconds=1.5,
            fps=24.0,
            frames=49,
            keep_audio=True,
            width=480,
            height=832,
        ),
    }


def test_media_must_be_given_once_and_in_a_known_form(dancer: Workflow) -> None:
    upload: dict[str, Any] = {"upload_id": "1"}
    refs = dancer.media_refs({"reference_image": upload}, attached=["driving_video"])
    assert refs == {"reference_image": UploadRef(upload_id="1")}

    def pointers(request: dict[str, Any], *attached: str) -> list[str]:
        with pytest.raises(InvalidRequest) as caught:
            dancer.media_refs(request, attached=attached)
        return [fault.pointer for fault in caught.value.errors]

    both = ["/request/reference_image", "/request/driving_video"]
    assert pointers({}) == both
    good = {"reference_image": upload, "driving_video": upload}
    assert pointers(good, "driving_video") == both[1:]
    assert pointers({**good, "driving_video": {**upload, "url": "https://x"}}) == both[1:]
    assert pointers({**good, "driving_video": "https://x"}) == both[1:]


def test_media_references_do_not_disturb_resolving(dancer: Workflow) -> None:
    with_media = resolve(dancer, reference_image={"upload_id": "1"}, driving_video={"url": "x"})
    assert with_media == resolve(dancer)


# --- schema ----------------------------------------------------------------------------------


def test_the_schema_accepts_what_is_accepted_and_refuses_what_is_refused(
    dancer: Workflow,
) -> None:
    schema = dancer.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    ref: Any = {"upload_id": "1"}
    good = {"prompt": "x", "reference_image": ref, "driving_video": ref}
    jsonschema.validate({**good, "width": 480, "height": 832, "fps": 16}, schema)
    jsonschema.validate({**good, **dancer.defaults()}, schema)
    bad: dict[str, Any]
    for bad in (
        {"width": 500},
        {"mode": "slow"},
        {"bogus": 1},
        {"crf": 36},
        {"prompt": ""},
        {"driving_video": {}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**good, **bad}, schema)
    missing: Literal["prompt"] = "prompt"
    assert missing in schema["required"]


def test_every_field_is_described_and_has_an_example(registry: Registry) -> None:
    for workflow in registry:
        for name, spec in workflow.manifest.fields.items():
            if name != "negative_prompt":
                assert spec.example is not None, name
            assert len(spec.description) > 20, name


def test_an_unknown_workflow_is_refused_with_the_known_ones(registry: Registry) -> None:
    with pytest.raises(UnknownWorkflow, match="smoke, steadydancer"):
        registry.get("dancer")


def test_smoke_takes_no_more_frames_than_the_video_has(registry: Registry) -> None:
    resolved = registry.get("smoke").resolve(
        {"frames": 17, "fps": 10}, {"driving_video": video(frames=30, fps=30)}, seed=1
    )
    assert resolved.request["frames"] == 10
    assert "10 frames instead of 17" in resolved.warnings[0]
