"""The memory formula, and what is offered where a request does not fit."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.workflows.fit import nearest_fit
from app.workflows.registry import Registry
from app.workflows.values import Resolved, Shape
from app.workflows.workflow import Workflow

VARIANTS = ("q4_k_m", "q5_k_m", "q6_k", "q8_0", "fp8_scaled", "fp16")


def resolve(workflow: Workflow, **asked: object) -> Resolved:
    return workflow.resolve({"prompt": "x", **asked}, {}, seed=1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_more_of_anything_needs_more(dancer: Workflow, variant: str) -> None:
    chosen = dancer.with_options(variant=variant)
    needs = [chosen.estimate_mib(resolve(chosen, preset=p)) for p in ("480p", "576p", "720p")]
    assert needs == sorted(set(needs))
    short = chosen.estimate_mib(resolve(chosen, frames=41))
    assert short < needs[0]
    more_swap = chosen.with_options(blocks_to_swap=40)
    assert more_swap.estimate_mib(resolve(chosen)) < needs[0]


def test_the_default_fits_a_16_gb_card_and_says_how_much_it_needs(dancer: Workflow) -> None:
    # 10,395 x 17/40 for the blocks, 704 LoRA, 35,880 tokens x 160 KiB, 1,200 and 700 fixed.
    assert dancer.estimate_mib(resolve(dancer)) == 12_629
    assert dancer.estimate_mib(resolve(dancer, mode="quality")) == 12_629 - 704
    assert dancer.estimate_mib(resolve(dancer, preset="720p"), low_memory=True) < 15_000


@pytest.mark.parametrize("variant", VARIANTS)
def test_low_memory_never_needs_more(dancer: Workflow, variant: str) -> None:
    chosen = dancer.with_options(variant=variant)
    for preset in ("480p", "720p"):
        resolved = resolve(chosen, preset=preset)
        assert chosen.estimate_mib(resolved, low_memory=True) < chosen.estimate_mib(resolved)


def test_windows_cap_what_sampling_needs(dancer: Workflow) -> None:
    plain, long = resolve(dancer), resolve(dancer, long=True, frames=241)
    assert dancer.estimate_mib(long) == dancer.estimate_mib(plain)


def test_shapes_differ_where_the_need_differs(dancer: Workflow) -> None:
    keys = {
        resolve(dancer).shape.key,
        resolve(dancer, mode="quality").shape.key,
        resolve(dancer, frames=77).shape.key,
        resolve(dancer, preset="576p").shape.key,
        dancer.shape_of(resolve(dancer).request, low_memory=True).key,
        resolve(dancer.with_options(variant="q6_k")).shape.key,
        resolve(dancer.with_options(blocks_to_swap=30)).shape.key,
    }
    assert len(keys) == 7
    assert resolve(dancer, prompt="other", seed=4).shape == resolve(dancer).shape
    same = dancer.with_options(blocks_to_swap=25)
    assert resolve(same).shape == resolve(dancer).shape


@settings(max_examples=25, deadline=None)
@given(
    limit=st.integers(6_000, 24_000),
    preset=st.sampled_from(["480p", "576p", "720p"]),
    frames=st.sampled_from([41, 81]),
)
def test_what_is_offered_fits_and_is_the_nearest(
    dancer: Workflow, limit: int, preset: str, frames: int
) -> None:
    asked = resolve(dancer, preset=preset, frames=frames)
    assume(dancer.estimate_mib(asked) > limit)
    for fit in nearest_fit(dancer, asked, limit):
        assert fit.need_mib <= limit
        assert f"{fit.need_mib:,} MiB" in fit.detail
        if fit.options:
            other = dancer.with_options(**fit.options)
            assert other.estimate_mib(asked) == fit.need_mib
            continue
        smaller = dancer.resolve(dancer.merge(asked.request, fit.changes), {}, seed=1)
        assert dancer.estimate_mib(smaller) == fit.need_mib
        if "frames" in fit.changes:
            more = resolve(dancer, preset=preset, frames=fit.changes["frames"] + 4)
            assert dancer.estimate_mib(more) > limit


def test_offers_name_frames_size_and_low_memory(dancer: Workflow) -> None:
    found = nearest_fit(dancer, resolve(dancer, preset="720p"), 15_500)
    assert [dict(fit.changes) for fit in found[:2]] == [
        {"frames": 49},
        {"width": 576, "height": 1024},
    ]
    assert found[2].options["blocks_to_swap"] == 40
    assert not found[2].changes


def test_of_the_sizes_a_preset_is_offered_before_a_free_one_of_its_shape(
    dancer: Workflow,
) -> None:
    asked = resolve(dancer, width=1280, height=720)
    small = dancer.estimate_mib(resolve(dancer, preset="480p"))
    found = [dict(fit.changes) for fit in nearest_fit(dancer, asked, small + 100)]
    assert {"width": 832, "height": 480} in found, "not 864 x 480, which would fit no better"
    square = resolve(dancer, width=720, height=720)
    limit = dancer.estimate_mib(resolve(dancer, width=640, height=640))
    found = [dict(fit.changes) for fit in nearest_fit(dancer, square, limit)]
    assert {"width": 640, "height": 640} in found


def test_where_neither_is_enough_both_are_offered_together(dancer: Workflow) -> None:
    asked = resolve(dancer, preset="720p")
    limit = 7_700  # the text encoder, which no request can make smaller, needs 7,620
    first, *operator = nearest_fit(dancer, asked, limit)
    assert {"frames", "width", "height"} == set(first.changes)
    assert first.need_mib <= limit
    assert all(fit.options for fit in operator)
    for alone in ({"frames": 5}, {"width": 256, "height": 448}):
        smaller = dancer.resolve(dancer.merge(asked.request, alone), {}, seed=1)
        assert dancer.estimate_mib(smaller) > limit


def test_what_is_offered_can_be_put_over_the_request_as_it_was_sent(dancer: Workflow) -> None:
    sent = {"prompt": "x", "preset": "720p", "orientation": "landscape", "duration_seconds": 5.0}
    asked = dancer.resolve(sent, {}, seed=1)
    found = [fit for fit in nearest_fit(dancer, asked, 15_500) if fit.changes]
    assert len(found) == 2
    for fit in found:
        again = dancer.resolve({**sent, **dancer.superseding(fit.changes)}, {}, seed=1)
        assert dancer.estimate_mib(again) == fit.need_mib


def test_a_learned_figure_takes_the_place_of_the_formula(dancer: Workflow) -> None:
    def learned(shape: Shape, formula_mib: int) -> int:
        return 99_999 if shape.frames > 9 else formula_mib

    found = nearest_fit(dancer, resolve(dancer), 16_000, learned)
    assert [dict(fit.changes) for fit in found] == [{"frames": 9}]


def test_nothing_is_offered_where_nothing_fits(dancer: Workflow) -> None:
    assert nearest_fit(dancer, resolve(dancer), 2_000) == ()


def test_smoke_needs_only_a_context(registry: Registry) -> None:
    smoke = registry.get("smoke")
    assert smoke.estimate_mib(smoke.resolve({}, {}, seed=1)) == 600


def test_work_grows_with_steps_passes_and_windows(dancer: Workflow) -> None:
    plain = dancer.work(resolve(dancer))
    assert dancer.work(resolve(dancer, steps=8)) == 2 * plain
    assert dancer.work(resolve(dancer, mode="quality")) == 2 * 30 / 4 * plain
    assert dancer.work(resolve(dancer, long=True, frames=161)) == 3 * plain
