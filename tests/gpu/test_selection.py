"""Which card is meant, by NVML's numbers, UUIDs and CUDA's environment variables."""

from __future__ import annotations

import pytest

from app.gpu.card import CardUnreadable
from app.gpu.selection import CardInfo, cuda_order, pick, plan


def card(
    index: int, uuid: str, *, bus: int, name: str = "A", parent: str | None = None
) -> CardInfo:
    return CardInfo(uuid, name, index, f"00000000:{bus:02X}:00.0", parent)


# NVML numbers these by something else than the bus, which its documentation allows.
TWINS = (
    card(0, "GPU-aa11", bus=0x81),
    card(1, "GPU-aa22", bus=0x0A),
    card(2, "GPU-bb33", bus=0x41),
)
MIXED = (card(0, "GPU-aa11", bus=1, name="GT 710"), card(1, "GPU-bb22", bus=2, name="RTX 4090"))
MIG = (
    card(0, "MIG-1111", bus=1, name="A100 MIG 1g.5gb", parent="GPU-aaaa"),
    card(0, "MIG-2222", bus=1, name="A100 MIG 2g.10gb", parent="GPU-aaaa"),
)


def uuids(environ: dict[str, str], cards: tuple[CardInfo, ...] = TWINS) -> list[str]:
    return [one.uuid for one in cuda_order(cards, environ)]


@pytest.mark.parametrize(
    ("selector", "uuid"),
    [
        ("0", "GPU-aa11"),
        ("2", "GPU-bb33"),
        (" 1 ", "GPU-aa22"),
        ("GPU-aa22", "GPU-aa22"),
        ("GPU-b", "GPU-bb33"),
        ("gpu-AA11", "GPU-aa11"),
    ],
)
def test_a_selector_is_nvmls_index_or_the_beginning_of_a_uuid(selector: str, uuid: str) -> None:
    assert pick(TWINS, selector, {"CUDA_VISIBLE_DEVICES": "0"}).uuid == uuid


@pytest.mark.parametrize("selector", ["3", "GPU-aa", "GPU-zz", "MIG-1", "first"])
def test_a_selector_that_names_no_card_or_two_is_refused_with_a_list(selector: str) -> None:
    with pytest.raises(CardUnreadable, match="GPU-aa11"):
        pick(TWINS, selector, {})


def test_without_a_selector_it_is_what_cuda_calls_device_0() -> None:
    assert pick(TWINS, None, {}).uuid == "GPU-aa22"
    assert pick(TWINS, "", {"CUDA_VISIBLE_DEVICES": "2,0"}).uuid == "GPU-aa11"
    assert pick(TWINS, None, {"CUDA_VISIBLE_DEVICES": "GPU-bb33"}).uuid == "GPU-bb33"


@pytest.mark.parametrize("visible", ["", "-1", "7", "NoDevFiles", "GPU-zz", "1,1"])
def test_an_environment_that_hides_all_cards_is_named(visible: str) -> None:
    with pytest.raises(CardUnreadable, match="CUDA_VISIBLE_DEVICES"):
        pick(TWINS, None, {"CUDA_VISIBLE_DEVICES": visible})


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("0", ["GPU-aa22"]),
        ("2,1", ["GPU-aa11", "GPU-bb33"]),
        (" 1 , 0", ["GPU-bb33", "GPU-aa22"]),
        ("1gpu2,0", ["GPU-bb33", "GPU-aa22"]),
        ("0,-1,1", ["GPU-aa22"]),
        ("0,9,1", ["GPU-aa22"]),
        ("GPU-bb,GPU-aa11", ["GPU-bb33", "GPU-aa11"]),
        ("GPU-bb,GPU-aa,0", ["GPU-bb33"]),
        ("0,0", []),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(visible: str, expected: list[str]) -> None:
    assert uuids({"CUDA_VISIBLE_DEVICES": visible}) == expected


def test_cudas_numbers_of_equal_cards_follow_the_bus_and_not_nvml() -> None:
    assert uuids({}) == ["GPU-aa22", "GPU-bb33", "GPU-aa11"]
    assert uuids({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}) == ["GPU-aa22", "GPU-bb33", "GPU-aa11"]


def test_numbers_of_different_cards_are_not_guessed() -> None:
    for environ in ({}, {"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}):
        with pytest.raises(CardUnreadable, match="different models") as caught:
            pick(MIXED, None, environ)
        assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in caught.value.advice


def test_different_cards_are_told_apart_by_bus_order_uuid_or_selector() -> None:
    assert pick(MIXED, None, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}).uuid == "GPU-aa11"
    assert pick(MIXED, None, {"CUDA_VISIBLE_DEVICES": "GPU-bb"}).uuid == "GPU-bb22"
    assert pick(MIXED, "1", {}).uuid == "GPU-bb22"


def test_cuda_shows_one_mig_device_only() -> None:
    assert uuids({}, MIG) == ["MIG-1111"]
    assert uuids({"CUDA_VISIBLE_DEVICES": "MIG-2222,MIG-1111"}, MIG) == ["MIG-2222"]


def test_a_mig_device_is_picked_by_its_uuid_and_never_by_a_card_that_has_several() -> None:
    assert pick(MIG, "MIG-2222", {}).uuid == "MIG-2222"
    for selector in ("0", "GPU-aaaa"):
        with pytest.raises(CardUnreadable, match="2 devices answer"):
            pick(MIG, selector, {})


@pytest.mark.parametrize(
    ("selectors", "engines", "visible", "expected"),
    [
        ((), 1, "2", ["GPU-aa11"]),
        ((), 2, None, ["GPU-aa22", "GPU-bb33"]),
        ((), 2, "2,0", ["GPU-aa11", "GPU-aa22"]),
        (("0", "GPU-bb"), 2, None, ["GPU-aa11", "GPU-bb33"]),
    ],
)
def test_each_engine_has_a_card_of_its_own(
    selectors: tuple[str, ...], engines: int, visible: str | None, expected: list[str]
) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert [card.uuid for card in plan(TWINS, selectors, engines, environ)] == expected


@pytest.mark.parametrize(
    ("selectors", "engines", "words"),
    [
        ((), 4, "4 engines; CUDA sees 3 cards"),
        (("0",), 2, "names 1 GPUs and .* 2 engines"),
        (("0", "GPU-aa11"), 2, "Engines 0 and 1 would share A .GPU-aa11"),
    ],
)
def test_engines_that_would_share_a_card_are_refused(
    selectors: tuple[str, ...], engines: int, words: str
) -> None:
    with pytest.raises(CardUnreadable, match=words) as caught:
        plan(TWINS, selectors, engines, {})
    assert caught.value.advice
