"""The table of decisions, and the words that explain them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from app.gpu.admission import (
    UNKNOWN_MODELS,
    Admit,
    FreeFirst,
    Never,
    Situation,
    Wait,
    decide,
    never,
)
from app.gpu.card import Process, Reading
from app.gpu.engine_memory import EngineMemory

COMFY = 42
FOREIGN = 666


@dataclass(frozen=True)
class Case:
    """A card of 24,000 MiB in all, of which the driver keeps 400; margin 500; ComfyUI idles at 600.

    The largest need that can ever be admitted is therefore 23,100 MiB.
    """

    says: str
    need: int
    expected: str
    held: int | None = 600
    foreign: int = 0
    loaded: str | None = None
    running: int | None = None
    steady: int | None = None

    @property
    def situation(self) -> Situation:
        used = (self.held or 0) + self.foreign
        return Situation(
            reading=Reading(
                uuid="GPU-1",
                name="Test card",
                total_mib=24_000,
                reserved_mib=400,
                free_mib=24_000 - 400 - used,
                processes=tuple(
                    Process(pid, mib)
                    for pid, mib in ((COMFY, self.held or 0), (FOREIGN, self.foreign))
                    if mib
                ),
            ),
            engine=EngineMemory(
                self.held,
                "unknown" if self.held is None else "pid",
                frozenset() if self.held is None else frozenset({COMFY}),
                600,
            ),
            loaded=self.loaded,
            running_need_mib=self.running,
            margin_mib=500,
            steady_budget_mib=self.steady,
        )


TABLE = [
    # --- an empty card
    Case("an empty card takes what fits", 23_100, "admit"),
    Case("one MiB more than the card can give never fits", 23_101, "never"),
    Case("never does not depend on who is there now", 23_101, "never", foreign=10_000, held=8_000),
    # --- what ComfyUI itself holds
    Case("its own cached models are room", 20_000, "admit", held=19_000, loaded="a"),
    Case("to the last MiB", 23_100, "admit", held=19_000, loaded="a"),
    Case("other models are freed first", 20_000, "free", held=19_000, loaded="b"),
    Case("unknown models too", 20_000, "free", held=19_000, loaded=UNKNOWN_MODELS),
    Case("not if there is room beside them", 4_000, "admit", held=19_000, loaded="b"),
    Case("what idles in the process counts as room", 4_700, "admit", held=19_000, loaded="b"),
    Case("but no more than that", 4_701, "free", held=19_000, loaded="b"),
    Case("after /free it waits for ComfyUI to let go", 20_000, "wait:engine", held=19_000),
    Case("then it is admitted", 20_000, "admit", held=900),
    Case("kernels and workspaces may stay", 23_100, "admit", held=600 + 1024),
    Case("models may not", 23_100, "wait:engine", held=600 + 1025),
    # --- others
    Case("others' memory is not room", 20_000, "wait:others", foreign=10_000),
    Case("beside others what fits is admitted", 13_100, "admit", foreign=10_000),
    Case("and not one MiB more", 13_101, "wait:others", foreign=10_000),
    Case(
        "to free is no use if others hold too much",
        20_000,
        "wait:others",
        held=5_000,
        foreign=10_000,
        loaded="b",
    ),
    Case(
        "to free is of use if it makes enough room beside others",
        13_000,
        "free",
        held=5_000,
        foreign=10_000,
        loaded="b",
    ),
    # --- a running job
    Case(
        "behind a job of the same models", 20_000, "admit", held=9_000, loaded="a", running=22_000
    ),
    Case("the larger need counts: mine", 23_100, "admit", held=9_000, loaded="a", running=9_000),
    Case(
        "the larger need counts: the running one's",
        5_000,
        "wait:others",
        held=9_000,
        foreign=3_000,
        loaded="a",
        running=22_000,
    ),
    Case("not their sum", 20_000, "admit", held=20_000, loaded="a", running=20_000),
    Case(
        "behind other models it waits for the end, when they can be freed",
        12_000,
        "wait:running",
        held=3_000,
        loaded="b",
        running=15_000,
    ),
    Case("unless both fit", 8_700, "admit", held=3_000, loaded="b", running=15_000),
    Case("one MiB less", 8_701, "wait:running", held=3_000, loaded="b", running=15_000),
    # --- ComfyUI's memory is not known
    Case("unknown counts as not ours", 20_000, "wait:others", held=None, foreign=15_000),
    Case(
        "but may be ours, so it is freed once",
        20_000,
        "free",
        held=None,
        foreign=15_000,
        loaded="a",
    ),
    Case(
        "not under a running job",
        20_000,
        "wait:running",
        held=None,
        foreign=15_000,
        loaded="a",
        running=15_000,
    ),
    Case("with enough free all the same", 8_100, "admit", held=None, foreign=15_000, loaded="a"),
    # --- hysteresis
    Case("what was in use a moment ago is not room", 20_000, "wait:others", steady=15_000),
    Case("older good readings make no room", 13_101, "wait:others", foreign=10_000, steady=23_600),
]


@pytest.mark.parametrize("case", TABLE, ids=[case.says for case in TABLE])
def test_decision(case: Case) -> None:
    decision = decide(case.need, "a", case.situation)
    said = {Admit: "admit", FreeFirst: "free", Never: "never"}.get(type(decision))
    if isinstance(decision, Wait):
        said = f"wait:{decision.until}"
    assert said == case.expected


@pytest.mark.parametrize("case", TABLE, ids=[case.says for case in TABLE])
def test_figures_of_a_wait_add_up(case: Case) -> None:
    decision = decide(case.need, "a", case.situation)
    if not isinstance(decision, Wait | FreeFirst):
        return
    wait = decision.wait
    assert wait.room_mib < wait.need_mib
    assert wait.free_mib + wait.engine_mib + wait.others_mib == 23_600
    assert f"{wait.need_mib:,} MiB" in wait.detail
    assert f"{wait.room_mib:,} MiB" in wait.detail


def test_a_wait_says_who_holds_the_rest() -> None:
    case = Case("", 20_000, "", held=2_000, foreign=10_000, loaded="a")
    decision = decide(case.need, "a", case.situation)
    assert isinstance(decision, Wait)
    assert decision.wait.detail == (
        "Needs 20,000 MiB; there is room for 13,100 MiB: 11,600 MiB free + 2,000 MiB that ComfyUI "
        "itself holds - 500 MiB margin. Others hold 10,000 MiB (pid 666: 10,000 MiB)."
    )


def test_a_wait_blames_no_process_that_may_be_comfyui() -> None:
    case = Case("", 20_000, "", held=2_000, foreign=10_000, loaded="a")
    situation = case.situation
    hidden = replace(situation.engine, source="system_stats", pids=frozenset())
    decision = decide(case.need, "a", replace(situation, engine=hidden))
    assert isinstance(decision, Wait)
    assert decision.wait.detail.endswith(
        "Others hold 10,000 MiB; on the card, ComfyUI's among them: "
        "pid 666: 10,000 MiB, pid 42: 2,000 MiB."
    )


def test_a_wait_says_when_comfyui_cannot_be_told_apart() -> None:
    case = Case("", 20_000, "", held=None, foreign=10_000)
    decision = decide(case.need, "a", case.situation)
    assert isinstance(decision, Wait)
    assert "What ComfyUI itself holds is not known" in decision.wait.detail


def test_a_wait_says_that_room_has_to_last() -> None:
    case = Case("", 20_000, "", steady=15_000)
    decision = decide(case.need, "a", case.situation)
    assert isinstance(decision, Wait)
    assert "- 8,600 MiB that was in use a moment ago" in decision.wait.detail


def test_at_most_four_processes_are_named_the_largest_first() -> None:
    reading = Reading(
        uuid="GPU-1",
        name="Test card",
        total_mib=24_000,
        free_mib=0,
        processes=tuple(Process(pid, pid * 100) for pid in range(1, 7)),
    )
    situation = Situation(
        reading=reading, engine=EngineMemory(None, "unknown"), loaded=None, margin_mib=0
    )
    decision = decide(1, "a", situation)
    assert isinstance(decision, Wait)
    assert (
        "(pid 6: 600 MiB, pid 5: 500 MiB, pid 4: 400 MiB, pid 3: 300 MiB, and more)"
        in decision.wait.detail
    )


def test_never_says_what_the_card_can_give() -> None:
    case = Case("", 30_000, "")
    refusal = never(30_000, case.situation.reading, 500)
    assert refusal is not None
    assert (refusal.need_mib, refusal.capacity_mib) == (30_000, 23_100)
    assert refusal.detail == (
        "It needs 30,000 MiB, and Test card can give at most 23,100 MiB: 24,000 MiB in all, "
        "400 MiB kept by the driver, 500 MiB margin."
    )
    assert never(23_100, case.situation.reading, 500) is None
