"""The ways in which a run ends early."""

from __future__ import annotations

from typing import Self

from app.standin.memory import OutOfCardMemory

OUT_OF_MEMORY = "torch.OutOfMemoryError"
OUT_OF_MEMORY_TIPS = (
    "\nThis error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked before "
    "you might have accidentally set the batch_size to a large number."
)


class Interrupted(Exception):
    """The prompt was interrupted."""


class Forgotten(Exception):
    """The server no longer knows the prompt that runs."""


class NodeFailed(Exception):
    """A node raised; carries the type name the real server reports."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    @classmethod
    def of(cls, error: Exception) -> Self:
        """Any error as the real server names it: module and class, builtins bare."""
        if isinstance(error, cls):
            return error
        if isinstance(error, OutOfCardMemory):
            return cls(OUT_OF_MEMORY, str(error))
        kind = type(error)
        name = (
            kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
        )
        return cls(name, str(error))

    def text(self) -> str:
        """The message as reported."""
        ending = OUT_OF_MEMORY_TIPS if self.kind == OUT_OF_MEMORY else "\n"
        return str(self) + ending
