"""The card a stand-in pretends to have, or really fills.

Models stay on the card between prompts until `/free`, as ComfyUI keeps them.
"""

from __future__ import annotations

from typing import Any

MIB = 1024 * 1024


class OutOfCardMemory(Exception):
    """The models of a prompt do not fit."""


class Memory:
    """What is held on the card.

    Attributes:
        held_mib: Held now.
    """

    def __init__(self, *, total_mib: int, real: bool) -> None:
        self.total_mib = total_mib
        self.held_mib = 0
        self._real = real
        self._tensors: list[Any] = []

    def hold(self, need_mib: int) -> None:
        """Load models of so many MiB unless they are loaded already.

        Raises:
            OutOfCardMemory: They do not fit.
        """
        missing = need_mib - self.held_mib
        if missing <= 0:
            return
        if self.total_mib and need_mib > self.total_mib:
            raise OutOfCardMemory(
                f"CUDA out of memory. Tried to allocate {missing / 1024:.2f} GiB. GPU 0 has a "
                f"total capacity of {self.total_mib / 1024:.2f} GiB"
            )
        if self._real:
            self._allocate(missing)
        self.held_mib = need_mib

    def _allocate(self, mib: int) -> None:
        torch: Any = __import__("torch")
        try:
            self._tensors.append(torch.zeros(mib * MIB, dtype=torch.uint8, device="cuda:0"))
            torch.cuda.synchronize()
        except torch.OutOfMemoryError as error:
            raise OutOfCardMemory(str(error)) from error

    def free(self) -> None:
        """Unload everything."""
        self.held_mib = 0
        self._tensors.clear()
        if self._real:
            torch: Any = __import__("torch")
            torch.cuda.empty_cache()

    def device(self, ram_total: int, ram_free: int) -> dict[str, Any]:
        """The entry of `/system_stats` for it."""
        if self._real:
            torch: Any = __import__("torch")
            free, total = torch.cuda.mem_get_info(0)
            held = torch.cuda.memory_reserved(0)
            name = f"cuda:0 {torch.cuda.get_device_name(0)} : cudaMallocAsync"
            return _device(name, "cuda", 0, total, free, held, 0)
        if not self.total_mib:
            return _device("cpu", "cpu", None, ram_total, ram_free, ram_total, ram_free)
        free = max(0, self.total_mib - self.held_mib) * MIB
        return _device(
            "cuda:0 Stand-in : cudaMallocAsync",
            "cuda",
            0,
            self.total_mib * MIB,
            free,
            self.held_mib * MIB,
            0,
        )


def _device(  # noqa: PLR0917 - one row of a table
    name: str, kind: str, index: int | None, total: int, free: int, torch_total: int, spare: int
) -> dict[str, Any]:
    return {
        "name": name,
        "type": kind,
        "index": index,
        "vram_total": total,
        "vram_free": free,
        "torch_vram_total": torch_total,
        "torch_vram_free": spare,
    }
