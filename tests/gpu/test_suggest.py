"""What would fit instead: computed from the needs."""

from __future__ import annotations

from app.gpu.suggest import Changes, Fit, nearest_that_fit

FRAMES = [{"frames": frames} for frames in (77, 73, 69, 49, 5)]
PRESETS = [{"preset": "576p"}, {"preset": "480p"}]
AREA = {"720p": 921_600, "576p": 589_824, "480p": 399_360}


def need_of(changes: Changes) -> int | None:
    preset, frames = changes.get("preset", "720p"), int(changes.get("frames", 81))
    return 8_000 + AREA[preset] * frames // 5_000


def fits(capacity: int) -> tuple[Fit, ...]:
    return nearest_that_fit([FRAMES, PRESETS], need_of=need_of, capacity_mib=capacity)


def test_each_way_gives_the_smallest_step_that_fits() -> None:
    frames, preset = fits(22_000)
    assert frames == Fit({"frames": 73}, 8_000 + 921_600 * 73 // 5_000)
    assert preset == Fit({"preset": "576p"}, 8_000 + 589_824 * 81 // 5_000)
    assert need_of({"frames": 77}) == 22_192


def test_a_way_that_never_fits_is_left_out() -> None:
    (only,) = fits(10_000)
    assert only.changes == {"frames": 5}


def test_where_no_way_fits_alone_the_nearest_combination_is_given() -> None:
    (only,) = fits(8_600)
    assert only == Fit({"frames": 5, "preset": "576p"}, 8_589)


def test_where_nothing_fits_nothing_is_promised() -> None:
    assert fits(8_000) == ()


def test_a_change_that_is_not_allowed_is_not_offered() -> None:
    found = nearest_that_fit(
        [[{"frames": 77}, {"frames": 73}]],
        need_of=lambda changes: None if changes["frames"] == 77 else 1,
        capacity_mib=10,
    )
    assert found == (Fit({"frames": 73}, 1),)


def test_an_empty_way_does_no_harm() -> None:
    assert nearest_that_fit([[], FRAMES], need_of=need_of, capacity_mib=22_000)
    found = nearest_that_fit([[], FRAMES, PRESETS], need_of=need_of, capacity_mib=8_600)
    assert found[0].changes == {"frames": 5, "preset": "576p"}
    assert nearest_that_fit([], need_of=lambda _: None, capacity_mib=1) == ()
