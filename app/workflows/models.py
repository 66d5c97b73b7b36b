"""Which model files are needed, by whom, and in what state they lie in ComfyUI's folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from app.errors import Misconfigured
from app.workflows.manifest import ModelFile
from app.workflows.workflow import Workflow

State = Literal["present", "missing", "wrong_size"]
"""By name and size alone; `verify` reads the bytes."""

OTHER_FOLDERS = {"diffusion_models": ("unet",), "text_encoders": ("clip",)}
"""Older folders that ComfyUI lists together with a folder (`folder_paths.py`)."""

_ABOUT = 0.15
"""How far a file may be from a size that no source states exactly."""

_PIECE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Needed:
    """A model file and who needs it.

    Attributes:
        model: The file, as the manifest has it.
        workflows: Workflows that need it under the options in force.
        variants: Every variant that would need it, as `workflow/variant`; a file that all
            variants of a workflow need is `workflow`.
    """

    model: ModelFile
    workflows: tuple[str, ...]
    variants: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What lies in the models folder for one file.

    Attributes:
        path: Where it lies, or should lie.
        size_bytes: Its size; None where it is missing.
    """

    path: Path
    state: State
    size_bytes: int | None


def choose(
    workflows: Iterable[Workflow], *, workflow: str | None = None, variant: str | None = None
) -> tuple[Workflow, ...]:
    """The workflows that are meant, under the variant that is meant.

    Args:
        workflows: All that are installed, under the operator's options.
        workflow: Only this one.
        variant: Takes the place of the operator's, in the workflows that have it.

    Raises:
        Misconfigured: None is called so, or none of them has such a variant.
    """
    installed = tuple(workflows)
    chosen = tuple(one for one in installed if workflow is None or one.name == workflow)
    if not chosen:
        known = ", ".join(one.name for one in installed)
        raise Misconfigured(f'No workflow is called "{workflow}". Installed are: {known}.')
    if variant is None:
        return chosen
    having = tuple(one for one in chosen if variant in one.manifest.variants)
    if not having:
        known = ", ".join(name for one in chosen for name in one.manifest.variants) or "none"
        raise Misconfigured(f'There is no variant "{variant}". There are: {known}.')
    return tuple(one.with_options(variant=variant) for one in having)


def needed(workflows: Iterable[Workflow], *, every: bool = False) -> tuple[Needed, ...]:
    """The files of some workflows, each once.

    Args:
        workflows: As `choose` gives them.
        every: Also those that only another variant or option needs.
    """
    found: dict[tuple[str, str], Needed] = {}
    for workflow in workflows:
        in_force = workflow.models
        for model in workflow.all_models:
            if not every and model not in in_force:
                continue
            key = model.folder, model.file
            known = found.get(key, Needed(model, (), ()))
            found[key] = Needed(
                known.model,
                known.workflows + ((workflow.name,) if model in in_force else ()),
                known.variants + _variants(workflow, model),
            )
    return tuple(found.values())


def _variants(workflow: Workflow, model: ModelFile) -> tuple[str, ...]:
    """Which variants need it, the other options as they are now."""
    names = tuple(workflow.manifest.variants)
    if not names:
        return (workflow.name,) if model in workflow.models else ()
    using = tuple(name for name in names if model in workflow.with_options(variant=name).models)
    return (workflow.name,) if using == names else tuple(f"{workflow.name}/{v}" for v in using)


def look(models_dir: Path, model: ModelFile) -> Found:
    """See whether a file is there with a size that can be right. Reads no bytes of it."""
    own = models_dir / model.folder / model.file
    others = (models_dir / folder / model.file for folder in OTHER_FOLDERS.get(model.folder, ()))
    path = next((path for path in (own, *others) if path.is_file()), None)
    if path is None:
        return Found(own, "missing", None)
    size = path.stat().st_size
    return Found(path, "present" if fits(model, size) else "wrong_size", size)


def fits(model: ModelFile, size_bytes: int) -> bool:
    """Whether a size can be the file's: the very one where it is known, else about it."""
    if model.verified.size:
        return size_bytes == model.size_bytes
    return abs(size_bytes - model.size_bytes) <= model.size_bytes * _ABOUT


def sha256_of(path: Path, *, on_bytes: Callable[[int], None] = lambda _: None) -> str:
    """Hash a file in bounded memory.

    Args:
        path: The file.
        on_bytes: Told the number of bytes after each piece; may raise to stop.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            on_bytes(len(piece))
    return digest.hexdigest()


def marks(model: ModelFile) -> tuple[str, ...]:
    """What about the manifest's entry was not seen in a public source."""
    found = []
    if not model.verified.name:
        found.append("name follows a pattern, not seen")
    if not model.verified.size:
        found.append("size is approximate")
    if model.sha256 is None:
        found.append("no SHA-256 stated")
    return tuple(found)


def download_command(workflow: Workflow, models_dir: Path | None) -> str:
    """The command that brings what is missing."""
    words = f"steadydancer models download --workflow {workflow.name}"
    if workflow.variant:
        words += f" --variant {workflow.variant}"
    return f"{words} --models-dir {models_dir or 'COMFYUI/models'}"
