"""A driver under the real pynvml: the C functions of libnvidia-ml, filling the real structs.

Only the loading of the library and the look-up of its functions are replaced, so pynvml's own
marshalling, struct versions and error classes are tested along.
"""

# ruff: noqa: N802, N815 - ctypes arguments, and the names of the C functions

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pynvml
import pytest

MIB = 1024 * 1024
NOT_AVAILABLE = 2**64 - 1


@dataclass
class Device:
    """A card or MIG device. Memory in MiB; `processes` are (pid, MiB or None)."""

    uuid: str
    name: str = "NVIDIA RTX A5000"
    bus_id: str = "00000000:01:00.0"
    total: int = 24_564
    reserved: int = 346
    processes: Sequence[tuple[int, int | None]] = ()
    hidden: int = 0
    mig: list[Device | None] | None = None
    parent: Device | None = None

    @property
    def used(self) -> int:
        return self.hidden + sum(mib or 0 for _, mib in self.processes)


class Driver:
    """What libnvidia-ml answers. `fail[function]` is a code that the function returns."""

    def __init__(self, *devices: Device) -> None:
        self.devices = list(devices)
        self.fail: dict[str, int] = {}
        self.missing_library = False
        self.opened = 0
        self.session = 0
        self.calls: list[str] = []
        self._handles: dict[int, tuple[int, Device]] = {}

    def install(self, monkeypatch: pytest.MonkeyPatch) -> Driver:
        monkeypatch.setattr(pynvml, "_LoadNvmlLibrary", self._load)
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer", self._function)
        return self

    def reset(self) -> None:
        """The driver is reloaded: every session and handle is void."""
        self.opened = 0

    def lose(self, code: int = pynvml.NVML_ERROR_GPU_IS_LOST) -> None:
        """Every question about memory is answered with an error."""
        self.fail |= {"nvmlDeviceGetMemoryInfo": code, "nvmlDeviceGetMemoryInfo_v2": code}
        self.fail |= {"nvmlDeviceGetComputeRunningProcesses_v3": code}

    def _load(self) -> None:
        if self.missing_library:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    def _function(self, name: str) -> Callable[..., int]:
        if self.fail.get(name) == pynvml.NVML_ERROR_FUNCTION_NOT_FOUND:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name in self.fail:
                return self.fail[name]
            if not self.opened and name != "nvmlInitWithFlags":
                return int(pynvml.NVML_ERROR_UNINITIALIZED)
            return int(getattr(self, name)(*arguments) or 0)

        return call

    def _all(self) -> list[Device]:
        return [*self.devices, *(m for d in self.devices for m in d.mig or () if m is not None)]

    def _give(self, device: Device, reference: Any) -> int:
        address = 0x1000 * (self.session * 100 + self._all().index(device) + 1)
        self._handles[address] = (self.session, device)
        pointer = ctypes.cast(ctypes.c_void_p(address), type(reference._obj))
        ctypes.memmove(ctypes.byref(reference._obj), ctypes.byref(pointer), 8)
        return 0

    def _device(self, handle: Any) -> Device:
        session, device = self._handles[ctypes.cast(handle, ctypes.c_void_p).value or 0]
        assert session == self.session, "a handle of a closed session was used"
        return device

    # --- the C functions -----------------------------------------------------------------------

    def nvmlInitWithFlags(self, _flags: int) -> None:
        if not self.opened:
            self.session += 1
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlDeviceGetCount_v2(self, count: Any) -> None:
        count._obj.value = len(self.devices)

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, device: Any) -> int:
        return self._give(self.devices[index.value], device)

    def nvmlDeviceGetHandleByUUID(self, uuid: Any, device: Any) -> int:
        for one in self._all():
            if one.uuid.encode() == uuid.value:
                return self._give(one, device)
        return int(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetUUID(self, handle: Any, buffer: Any, _size: Any) -> None:
        buffer.value = self._device(handle).uuid.encode()

    def nvmlDeviceGetName(self, handle: Any, buffer: Any, _size: Any) -> None:
        buffer.value = self._device(handle).name.encode()

    def nvmlDeviceGetPciInfo_v3(self, handle: Any, info: Any) -> None:
        info._obj.busId = self._device(handle).bus_id.encode()

    def nvmlDeviceGetMigMode(self, handle: Any, current: Any, pending: Any) -> int:
        device = self._device(handle)
        if device.mig is None:
            return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
        current._obj.value = pending._obj.value = pynvml.NVML_DEVICE_MIG_ENABLE
        return 0

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any, count: Any) -> None:
        count._obj.value = len(self._device(handle).mig or ())

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: Any, mig: Any) -> int:
        found = (self._device(handle).mig or [])[index.value]
        return int(pynvml.NVML_ERROR_NOT_FOUND) if found is None else self._give(found, mig)

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: Any, device: Any) -> int:
        parent = self._device(handle).parent
        return int(pynvml.NVML_ERROR_INVALID_ARGUMENT) if not parent else self._give(parent, device)

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> None:
        device, out = self._device(handle), memory._obj
        out.total = device.total * MIB
        out.used = (device.reserved + device.used) * MIB  # v1 counts the reserve as used
        out.free = (device.total - device.reserved - device.used) * MIB

    def nvmlDeviceGetMemoryInfo_v2(self, handle: Any, memory: Any) -> int:
        device, out = self._device(handle), memory._obj
        if out.version != ctypes.sizeof(out) | 2 << 24:
            return int(pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH)
        out.total = device.total * MIB
        out.reserved = device.reserved * MIB
        out.used = device.used * MIB
        out.free = (device.total - device.reserved - device.used) * MIB
        return 0

    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle: Any, count: Any, out: Any) -> int:
        processes = self._device(handle).processes
        room, count._obj.value = count._obj.value, len(processes)
        if room < len(processes):
            return int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
        for index, (pid, mib) in enumerate(processes):
            out[index].pid = pid
            out[index].usedGpuMemory = NOT_AVAILABLE if mib is None else mib * MIB
        return 0

    nvmlDeviceGetComputeRunningProcesses_v2 = nvmlDeviceGetComputeRunningProcesses_v3

    def nvmlDeviceGetUtilizationRates(self, handle: Any, rates: Any) -> int:
        if self._device(handle).parent is not None:
            return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
        rates._obj.gpu = 97
        return 0

    def nvmlDeviceGetTemperature(self, handle: Any, _sensor: Any, degrees: Any) -> int:
        if self._device(handle).parent is not None:
            return int(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        degrees._obj.value = 61
        return 0
