"""What the tracker makes of ComfyUI's messages."""

from __future__ import annotations

from app.comfy import messages
from app.jobs.progress import Tracker
from app.workflows.values import NodeShare
from tests.conftest import Clock

SHARES = {
    "1": NodeShare("Loader", "loading", 0.2),
    "2": NodeShare("Sampler", "sampling", 0.6),
    "3": NodeShare("Decode", "decoding", 0.2),
}


def step(value: float) -> messages.NodeProgress:
    return messages.NodeProgress("p", "2", value, 4)


def test_the_last_step_before_a_silence_is_told_all_the_same(clock: Clock) -> None:
    tracker = Tracker(SHARES, clock)
    tracker.take(messages.Executing("p", "2"))
    assert tracker.take(step(1)) is None, "at most one report a second"
    assert tracker.take(step(2)) is None
    told = tracker.rest()
    assert told is not None
    assert (told.step, told.steps, told.node) == (2, 4, "Sampler")
    assert tracker.rest() is None, "it was told already"


def test_a_new_phase_is_told_at_once_and_the_fraction_never_goes_back(clock: Clock) -> None:
    tracker = Tracker(SHARES, clock)
    seen = []
    for message in (
        messages.Executing("p", "1"),
        messages.Executed("p", "1"),
        messages.Executing("p", "2"),
        step(4),
        step(1),
        messages.Executing("p", "3"),
    ):
        clock.advance(1)
        report = tracker.take(message)
        assert report is not None
        seen.append((report.phase, report.fraction or 0.0))
    assert [phase for phase, _ in seen][::2] == ["loading", "sampling", "sampling"]
    assert seen[-1][0] == "decoding"
    assert [fraction for _, fraction in seen] == sorted(fraction for _, fraction in seen)


def test_the_time_to_go_comes_from_the_pace_of_the_steps(clock: Clock) -> None:
    tracker = Tracker(SHARES, clock)
    tracker.take(messages.Executing("p", "2"))
    for value in (1, 2, 3):
        clock.advance(10)
        report = tracker.take(step(value))
    assert report is not None
    assert report.eta_at is not None
    assert 10 <= (report.eta_at - clock()).total_seconds() <= 40
