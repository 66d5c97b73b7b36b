"""Readings of real cards through NVML: the only file that imports pynvml (nvidia-ml-py)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pynvml

from app.gpu.card import CardUnreadable, Process, Reading
from app.gpu.selection import CardInfo, pick, plan

_MIB = 1024 * 1024

_NOT_TOLD = (
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
    pynvml.NVML_ERROR_NO_DATA,
    pynvml.NVML_ERROR_DEPRECATED,
)
"""The card is fine; it, its driver or its container only does not answer this question."""

_ADVICE: dict[int, str] = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
        "The NVIDIA driver's library libnvidia-ml is not here: install the driver, or start the "
        "container with the NVIDIA runtime (`--gpus all`). Without a GPU set "
        "GATEWAY_ADMISSION=off."
    ),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: (
        "The NVIDIA kernel driver is not loaded: check `nvidia-smi` on the host. Without a GPU set "
        "GATEWAY_ADMISSION=off."
    ),
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "The driver was updated under a running system: reboot the host, or restart the container."
    ),
    pynvml.NVML_ERROR_GPU_IS_LOST: (
        "The GPU has fallen off the bus: see `dmesg` for an Xid; the host may need a reboot."
    ),
    pynvml.NVML_ERROR_RESET_REQUIRED: "The GPU needs a reset: `nvidia-smi --gpu-reset`.",
    pynvml.NVML_ERROR_NO_PERMISSION: "Give the gateway's user access to /dev/nvidia*.",
    pynvml.NVML_ERROR_NOT_FOUND: (
        "No card has that UUID now: check `nvidia-smi -L` and GATEWAY_GPUS."
    ),
}


def _unreadable(error: pynvml.NVMLError, what: str) -> CardUnreadable:
    return CardUnreadable(
        f"NVML failed {what}: {error}.",
        advice=_ADVICE.get(error.value, "Check `nvidia-smi` and the kernel's log."),
    )


class Nvml:
    """The library's one session in this process, shared by all cards.

    NVML counts initialisations, so a failed driver is only taken up anew when every one of them
    was shut down: hence one session. A new session makes all handles of the old one invalid;
    `generation` tells.
    """

    def __init__(
        self, *, retry_seconds: float = 1.0, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.generation = 0
        self._lock = threading.Lock()
        self._open = False
        self._retry_seconds = retry_seconds
        self._monotonic = monotonic
        self._tried_at = float("-inf")
        self._failure: CardUnreadable | None = None

    def ensure(self) -> int:
        """Open the session if it is not; gives its generation.

        Raises:
            CardUnreadable: NVML cannot be initialised. It is tried again every `retry_seconds`.
        """
        with self._lock:
            if self._open:
                return self.generation
            too_soon = self._monotonic() - self._tried_at < self._retry_seconds
            if self._failure is not None and too_soon:
                raise self._failure
            self._tried_at = self._monotonic()
            try:
                pynvml.nvmlInit()
            except pynvml.NVMLError as error:
                self._failure = _unreadable(error, "to start")
                raise self._failure from error
            self._failure = None
            self._open = True
            self.generation += 1
            return self.generation

    def drop(self, generation: int) -> None:
        """Close the session if it is still that one; the next `ensure` opens a new one."""
        with self._lock:
            if not self._open or generation != self.generation:
                return
            self._open = False
            try:
                pynvml.nvmlShutdown()
            except pynvml.NVMLError as error:
                # After a driver reset the library may say that it was never initialised, which is
                # what was wanted.
                if error.value != pynvml.NVML_ERROR_UNINITIALIZED:
                    self._failure = _unreadable(error, "to shut down")
                    self._tried_at = self._monotonic()

    def close(self) -> None:
        """Close the session."""
        self.drop(self.generation)


@dataclass(frozen=True, slots=True)
class _Handles:
    generation: int
    memory: Any
    sensors: Any


class NvmlCard:
    """One card or MIG device, found by its UUID, read through NVML."""

    def __init__(
        self,
        selector: str | None = None,
        *,
        nvml: Nvml | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Find the card. Fails at once if there is none.

        Args:
            selector: Index as `nvidia-smi` numbers the cards, `GPU-…` or `MIG-…` UUID or the
                beginning of one; None for what CUDA would call device 0 in `environ`.
            nvml: The session to share with other cards.
            environ: Environment in which CUDA would look for `CUDA_VISIBLE_DEVICES` and
                `CUDA_DEVICE_ORDER`: ComfyUI's.

        Raises:
            CardUnreadable: NVML is missing, or no card answers to the selector.
        """
        self._nvml = nvml if nvml is not None else Nvml()
        self._lock = threading.Lock()
        self._handles: _Handles | None = None
        self._old_memory_call = False
        self.info = pick(list_cards(self._nvml), selector, environ if environ is not None else {})

    @property
    def uuid(self) -> str:
        """`GPU-…` or `MIG-…`: what `CUDA_VISIBLE_DEVICES` of the engine should say."""
        return self.info.uuid

    @property
    def name(self) -> str:
        """Product name."""
        return self.info.name

    def read(self, *, light: bool = False) -> Reading:
        """Look at the card. Blocks: call it in a thread.

        Args:
            light: Memory and processes only, for the sampler.

        Raises:
            CardUnreadable: NVML failed. The next call starts it anew.
        """
        with self._lock:
            handles = self._open()
            try:
                return self._read(handles, light=light)
            except pynvml.NVMLError as error:
                self._handles = None
                self._nvml.drop(handles.generation)
                raise _unreadable(error, f"to read {self.name} ({self.uuid})") from error

    def _open(self) -> _Handles:
        generation = self._nvml.ensure()
        if self._handles is None or self._handles.generation != generation:
            try:
                memory = pynvml.nvmlDeviceGetHandleByUUID(self.uuid)
                sensors = (
                    pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(memory)
                    if self.info.is_mig
                    else memory
                )
            except pynvml.NVMLError as error:
                self._nvml.drop(generation)
                raise _unreadable(error, f"to find {self.name} ({self.uuid})") from error
            self._handles = _Handles(generation, memory, sensors)
        return self._handles

    def _read(self, handles: _Handles, *, light: bool) -> Reading:
        # Processes first: memory that ComfyUI takes between the two calls is then missing from the
        # room; the other way round it would be counted twice.
        processes = _processes(handles.memory)
        total, reserved, free = self._memory(handles.memory)
        return Reading(
            uuid=self.uuid,
            name=self.name,
            total_mib=total // _MIB,
            free_mib=free // _MIB,
            reserved_mib=-(-(reserved or 0) // _MIB),
            reserved_known=reserved is not None,
            processes=processes,
            # The driver has no utilisation for a MIG device, and the parent's is all tenants'.
            utilization_percent=None
            if light or self.info.is_mig
            else _told(lambda: int(pynvml.nvmlDeviceGetUtilizationRates(handles.sensors).gpu)),
            temperature_celsius=None
            if light
            else _told(
                lambda: int(
                    pynvml.nvmlDeviceGetTemperature(handles.sensors, pynvml.NVML_TEMPERATURE_GPU)
                )
            ),
        )

    def _memory(self, handle: Any) -> tuple[int, int | None, int]:  # noqa: ANN401 - a ctypes pointer
        """Total, reserved and free bytes; reserved is None from drivers before v2 (R510)."""
        if not self._old_memory_call:
            try:
                new = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
            except pynvml.NVMLError as error:
                if error.value not in _NOT_TOLD:
                    raise
                self._old_memory_call = True
            else:
                return int(new.total), int(new.reserved), int(new.free)
        old = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return int(old.total), None, int(old.free)


def cards_of(
    selectors: Sequence[str], *, engines: int, environ: Mapping[str, str]
) -> list[NvmlCard]:
    """The card of each engine, all over one session.

    Args:
        selectors: One for each engine, or none; see `selection.plan`.
        engines: How many engines there are.
        environ: Environment in which CUDA would look for the cards.

    Raises:
        CardUnreadable: NVML is missing, or there is not one card for each engine.
    """
    nvml = Nvml()
    chosen = plan(list_cards(nvml), selectors, engines, environ)
    return [NvmlCard(card.uuid, nvml=nvml) for card in chosen]


def list_cards(nvml: Nvml) -> tuple[CardInfo, ...]:
    """All cards that this process may see; of one in MIG mode, its devices instead.

    Raises:
        CardUnreadable: NVML is missing or failed.
    """
    generation = nvml.ensure()
    cards: list[CardInfo] = []
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            bus_id = _text(pynvml.nvmlDeviceGetPciInfo(handle).busId)
            parent = _info(handle, index=index, bus_id=bus_id, parent=None)
            devices = _mig_devices(handle)
            if devices is None:
                cards.append(parent)
            else:
                cards.extend(
                    _info(device, index=index, bus_id=bus_id, parent=parent.uuid)
                    for device in devices
                )
    except pynvml.NVMLError as error:
        nvml.drop(generation)
        raise _unreadable(error, "to list the cards") from error
    return tuple(cards)


def _info(handle: Any, *, index: int, bus_id: str, parent: str | None) -> CardInfo:  # noqa: ANN401
    return CardInfo(
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        index=index,
        bus_id=bus_id,
        parent_uuid=parent,
    )


def _mig_devices(handle: Any) -> list[Any] | None:  # noqa: ANN401 - ctypes pointers
    """The MIG devices of a card; None if it is not in MIG mode."""
    mode = _told(lambda: int(pynvml.nvmlDeviceGetMigMode(handle)[0]))
    if mode != pynvml.NVML_DEVICE_MIG_ENABLE:
        return None
    found = []
    for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            found.append(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number))
        except pynvml.NVMLError as error:
            if error.value != pynvml.NVML_ERROR_NOT_FOUND:
                raise
    return found


def _processes(handle: Any) -> tuple[Process, ...]:  # noqa: ANN401 - a ctypes pointer
    """Compute processes, by the newest call that the driver has (v3 since R510)."""
    for call in (
        pynvml.nvmlDeviceGetComputeRunningProcesses_v3,
        pynvml.nvmlDeviceGetComputeRunningProcesses_v2,
    ):
        found = _told(partial(call, handle))
        if found is not None:
            return tuple(
                Process(
                    int(process.pid),
                    None
                    if process.usedGpuMemory is None
                    else -(-int(process.usedGpuMemory) // _MIB),
                )
                for process in found
            )
    return ()


def _told(call: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever the call gives
    """What the call gives; None where this card, driver or container does not tell."""
    try:
        return call()
    except pynvml.NVMLError as error:
        if error.value in _NOT_TOLD:
            return None
        raise


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
