"""Which memory is ComfyUI's: by pid, by its own word, or not known."""

from __future__ import annotations

from app.gpu.card import Process, Reading
from app.gpu.engine_memory import CONTEXT_MIB, Offset, engine_memory


def reading(used: int, *processes: tuple[int, int | None]) -> Reading:
    return Reading(
        uuid="GPU-1",
        name="Test card",
        total_mib=24_000,
        reserved_mib=400,
        free_mib=23_600 - used,
        processes=tuple(Process(pid, mib) for pid, mib in processes),
    )


def test_memory_is_taken_from_the_driver_where_it_names_the_process() -> None:
    memory = engine_memory(reading(9_000, (7, 6_000), (8, 3_000)), pids=[7], torch_mib=5_500)
    assert (memory.held_mib, memory.source, memory.pids) == (6_000, "pid", frozenset({7}))


def test_all_processes_of_the_engine_count() -> None:
    memory = engine_memory(reading(9_000, (7, 6_000), (8, 3_000)), pids=[7, 8, 9])
    assert memory.held_mib == 9_000


def test_where_pids_are_hidden_torchs_word_counts_and_the_context_is_added() -> None:
    memory = engine_memory(reading(9_000), pids=[7], torch_mib=5_500)
    assert (memory.held_mib, memory.source) == (5_500 + CONTEXT_MIB, "system_stats")


def test_where_the_driver_does_not_tell_a_process_s_memory_torchs_word_counts() -> None:
    memory = engine_memory(reading(9_000, (7, None)), pids=[7], torch_mib=5_500)
    assert memory.source == "system_stats"


def test_a_foreign_process_with_our_number_is_not_taken_for_ours() -> None:
    # In a container ComfyUI may be pid 7 while the driver's pid 7 is a stranger on the host.
    memory = engine_memory(reading(9_000, (7, 300)), pids=[7], torch_mib=5_500)
    assert (memory.held_mib, memory.source) == (5_500 + CONTEXT_MIB, "system_stats")


def test_what_it_holds_is_never_more_than_what_is_used() -> None:
    assert engine_memory(reading(5_000), torch_mib=5_000).held_mib == 5_000


def test_with_neither_it_is_unknown_and_nothing_is_ours() -> None:
    memory = engine_memory(reading(9_000, (8, 9_000)), pids=[7])
    assert (memory.held_mib, memory.source, memory.pids) == (None, "unknown", frozenset())


def test_the_offset_is_learned_while_idle_and_replaces_the_constant() -> None:
    offset = Offset().learn(reading(619), torch_mib=0)
    assert offset == Offset(619, learned=True)
    assert engine_memory(reading(5_619), torch_mib=5_000, offset=offset).held_mib == 5_619
    assert engine_memory(reading(619), torch_mib=0, offset=offset).idle_mib == 619


def test_other_processes_memory_is_not_learned_as_the_context() -> None:
    offset = Offset(619, learned=True)
    assert offset.learn(reading(20_000), torch_mib=0) == offset
    assert offset.learn(reading(900), torch_mib=0) == offset
    assert Offset().learn(reading(20_000), torch_mib=0) == Offset()
    assert offset.learn(reading(500), torch_mib=0).mib == 500


def test_the_offset_is_exact_where_the_process_is_named() -> None:
    visible = reading(1_000, (7, 700), (8, 300))
    assert Offset().learn(visible, torch_mib=100, pids=[7]) == Offset(600, learned=True)
    assert Offset().learn(visible, torch_mib=100) == Offset(900, learned=True)


def test_a_word_that_cannot_be_true_is_not_learned() -> None:
    assert Offset().learn(reading(500), torch_mib=600) == Offset()
