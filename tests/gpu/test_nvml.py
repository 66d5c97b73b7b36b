"""Readings through the real pynvml over a driver that answers as NVML's documentation says."""

from __future__ import annotations

import pynvml
import pytest

from app.gpu.card import CardUnreadable, Process
from app.gpu.nvml import Nvml, NvmlCard, list_cards
from tests.gpu.driver import Device, Driver


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    return Driver(Device("GPU-aaaa")).install(monkeypatch)


class Ticks:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def test_a_reading_tells_reserved_memory_apart_from_usage(driver: Driver) -> None:
    driver.devices[0].processes = [(7, 5_000), (8, 1_000)]
    reading = NvmlCard().read()
    assert reading.total_mib == 24_564
    assert reading.reserved_mib == 346
    assert reading.free_mib == 24_564 - 346 - 6_000
    assert reading.used_mib == 6_000
    assert reading.reserved_known
    assert reading.processes == (Process(7, 5_000), Process(8, 1_000))
    assert (reading.uuid, reading.name) == ("GPU-aaaa", "NVIDIA RTX A5000")
    assert (reading.utilization_percent, reading.temperature_celsius) == (97, 61)


@pytest.mark.parametrize(
    "code",
    [
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
    ],
)
def test_a_driver_without_the_new_memory_call_is_read_with_the_old_one(
    driver: Driver, code: int
) -> None:
    driver.fail["nvmlDeviceGetMemoryInfo_v2"] = code
    card = NvmlCard()
    reading = card.read()
    assert not reading.reserved_known
    assert (reading.reserved_mib, reading.free_mib) == (0, 24_564 - 346)
    assert reading.used_mib == 346
    driver.calls.clear()
    card.read()
    assert "nvmlDeviceGetMemoryInfo_v2" not in driver.calls


def test_a_process_whose_memory_is_not_told_has_none(driver: Driver) -> None:
    driver.devices[0].processes = [(7, None)]
    assert NvmlCard().read().processes == (Process(7, None),)


def test_a_container_that_hides_processes_still_shows_memory(driver: Driver) -> None:
    driver.devices[0].hidden = 3_000
    reading = NvmlCard().read()
    assert (reading.processes, reading.used_mib) == ((), 3_000)


def test_processes_that_may_not_be_listed_do_not_break_the_reading(driver: Driver) -> None:
    for version in ("v2", "v3"):
        name = f"nvmlDeviceGetComputeRunningProcesses_{version}"
        driver.fail[name] = pynvml.NVML_ERROR_NO_PERMISSION
    assert NvmlCard().read().processes == ()


def test_a_driver_without_the_new_process_call_is_read_with_the_old_one(driver: Driver) -> None:
    driver.devices[0].processes = [(7, 5_000)]
    driver.fail["nvmlDeviceGetComputeRunningProcesses_v3"] = pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
    assert NvmlCard().read().processes == (Process(7, 5_000),)


def test_sensors_that_a_card_lacks_read_as_none(driver: Driver) -> None:
    driver.fail["nvmlDeviceGetUtilizationRates"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    driver.fail["nvmlDeviceGetTemperature"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    reading = NvmlCard().read()
    assert (reading.utilization_percent, reading.temperature_celsius) == (None, None)


def test_the_samplers_reading_asks_for_memory_and_processes_only(driver: Driver) -> None:
    card = NvmlCard()
    card.read(light=True)
    driver.calls.clear()
    reading = card.read(light=True)
    assert reading.temperature_celsius is None
    assert set(driver.calls) == {
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetMemoryInfo_v2",
    }


# --- MIG -------------------------------------------------------------------------------------


@pytest.fixture
def mig(monkeypatch: pytest.MonkeyPatch) -> Driver:
    parent = Device("GPU-aaaa", name="NVIDIA A100-SXM4-40GB", total=40_960, mig=[])
    parent.mig = [
        Device(
            f"MIG-{letter}",
            name="NVIDIA A100-SXM4-40GB MIG 3g.20gb",
            total=20_096,
            reserved=0,
            processes=processes,
            parent=parent,
        )
        for letter, processes in (("1111", [(7, 6_000)]), ("2222", []))
    ]
    parent.mig.insert(1, None)
    return Driver(parent).install(monkeypatch)


def test_a_card_in_mig_mode_is_listed_as_its_devices(mig: Driver) -> None:
    cards = list_cards(Nvml())
    assert [card.uuid for card in cards] == ["MIG-1111", "MIG-2222"]
    assert {card.parent_uuid for card in cards} == {"GPU-aaaa"}


def test_a_mig_device_is_read_as_itself(mig: Driver) -> None:
    reading = NvmlCard("MIG-1111").read()
    assert (reading.total_mib, reading.free_mib) == (20_096, 14_096)
    assert reading.processes == (Process(7, 6_000),)
    assert NvmlCard("MIG-2222").read().free_mib == 20_096


def test_a_mig_device_has_its_cards_temperature_and_no_utilization(mig: Driver) -> None:
    reading = NvmlCard("MIG-1111").read()
    assert (reading.temperature_celsius, reading.utilization_percent) == (61, None)


# --- failure and recovery --------------------------------------------------------------------


def test_without_the_driver_the_error_says_what_to_install_or_set(driver: Driver) -> None:
    driver.missing_library = True
    with pytest.raises(CardUnreadable) as caught:
        NvmlCard()
    assert "libnvidia-ml" in caught.value.advice
    assert "GATEWAY_ADMISSION=off" in caught.value.advice


def test_a_host_without_cards_says_so(driver: Driver) -> None:
    driver.devices.clear()
    with pytest.raises(CardUnreadable, match="NVML sees no card"):
        NvmlCard()


@pytest.mark.parametrize(
    "code",
    [
        pynvml.NVML_ERROR_GPU_IS_LOST,
        pynvml.NVML_ERROR_RESET_REQUIRED,
        pynvml.NVML_ERROR_UNKNOWN,
        pynvml.NVML_ERROR_TIMEOUT,
    ],
)
def test_a_lost_card_is_unreadable_and_recovers_by_itself(driver: Driver, code: int) -> None:
    card = NvmlCard()
    before = card.read()
    driver.lose(code)
    for _ in range(3):
        with pytest.raises(CardUnreadable, match="GPU-aaaa") as caught:
            card.read()
        assert caught.value.advice
    driver.fail.clear()
    assert card.read() == before


def test_after_a_driver_reset_the_session_is_opened_anew(driver: Driver) -> None:
    card = NvmlCard()
    card.read()
    driver.reset()
    with pytest.raises(CardUnreadable):
        card.read()
    assert card.read().total_mib == 24_564
    assert driver.session == 2


def test_two_cards_share_a_session_so_that_one_reset_renews_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver = Driver(
        Device("GPU-aaaa"), Device("GPU-bbbb", bus_id="00000000:02:00.0", total=10_000)
    ).install(monkeypatch)
    nvml = Nvml()
    first, second = NvmlCard("GPU-a", nvml=nvml), NvmlCard("GPU-b", nvml=nvml)
    assert (first.read().total_mib, second.read().total_mib) == (24_564, 10_000)
    driver.lose()
    with pytest.raises(CardUnreadable):
        first.read()
    driver.fail.clear()
    # The other card's handle is of the old session, which the driver asserts is not used.
    assert (second.read().total_mib, first.read().total_mib) == (10_000, 24_564)
    assert driver.opened == 1


def test_a_driver_that_stays_away_is_not_asked_more_than_once_a_second(driver: Driver) -> None:
    ticks = Ticks()
    card = NvmlCard(nvml=Nvml(retry_seconds=1.0, monotonic=ticks))
    driver.reset()
    driver.fail["nvmlInitWithFlags"] = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    driver.calls.clear()
    for _ in range(50):
        with pytest.raises(CardUnreadable):
            card.read()
        ticks.time += 0.1
    assert 4 <= driver.calls.count("nvmlInitWithFlags") <= 6
    driver.fail.clear()
    ticks.time += 1.0
    assert card.read().total_mib == 24_564


def test_a_card_that_is_gone_after_a_reset_is_named(driver: Driver) -> None:
    card = NvmlCard()
    driver.devices[0] = Device("GPU-cccc")
    driver.reset()
    for _ in range(2):
        with pytest.raises(CardUnreadable, match="GPU-aaaa") as caught:
            card.read()
    assert "GATEWAY_GPUS" in caught.value.advice


def test_closing_twice_is_harmless(driver: Driver) -> None:
    nvml = Nvml()
    list_cards(nvml)
    nvml.close()
    nvml.close()
    assert driver.opened == 0
