"""Command groups whose module is imported when they are used, not when help lists them."""
# ruff: noqa: ANN401 - typer keeps the types of its contexts and commands to itself

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

from typer.core import TyperGroup
from typer.main import get_group


class LazyGroup(TyperGroup):
    """Stands in a list of commands for a group that is not imported yet."""

    def __init__(self, *, name: str, module: str, words: str) -> None:
        super().__init__(name=name, help=words)
        self._module = module

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """Import the group and go on with it."""
        group = get_group(import_module(self._module).app)
        group.name = self.name
        return group.make_context(info_name, args, parent, **extra)


class RootGroup(TyperGroup):
    """The commands, and behind them the lazy groups."""

    lazy: ClassVar[Mapping[str, tuple[str, str]]] = {
        "models": ("app.cli.models", "The model files that the workflows need."),
        "db": ("app.cli.db", "The database: backup, restore, check, upgrade, and its media."),
        "vram": ("app.cli.vram", "Memory needs that were learned from finished runs."),
        "workers": ("app.cli.workers", "The machines that run the jobs of a shared store."),
    }
    """Name to module and help."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Every name, the lazy ones last."""
        return [*super().list_commands(ctx), *self.lazy]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a name."""
        if cmd_name in self.lazy:
            module, words = self.lazy[cmd_name]
            return LazyGroup(name=cmd_name, module=module, words=words)
        return super().get_command(ctx, cmd_name)
