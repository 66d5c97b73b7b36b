"""How much memory a run takes by the manifest's formula, and what would fit instead. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from app.workflows.manifest import VramSpec, holds


def tokens(spec: VramSpec, *, width: int, height: int, frames: int) -> int:
    """Latent tokens that one pass of the sampler holds."""
    window = min(frames, spec.window_frames or frames)
    latents = (window - 1) // spec.frames_per_latent + 1 + spec.extra_latents
    return (width // spec.patch_pixels) * (height // spec.patch_pixels) * latents


def resident(spec: VramSpec, values: Mapping[str, Any]) -> float:
    """The part of the weights that is on the card at once under block swapping."""
    swapped = min(int(values.get("blocks_to_swap") or 0), spec.blocks)
    if not spec.blocks or not swapped:
        return 1.0
    # Besides the blocks that stay, one swapped block is in use and others are fetched ahead.
    ahead = 1 + int(values.get("prefetch_blocks") or 0)
    return min(1.0, (spec.blocks - swapped + ahead) / spec.blocks)


def need_mib(
    spec: VramSpec,
    values: Mapping[str, Any],
    *,
    weights_mib: int,
    width: int,
    height: int,
    frames: int,
) -> int:
    """Peak of the engine's whole process in MiB: the largest stage, plus what is always there."""
    stages: dict[str, float] = {}
    pixels = width * height
    tile = min(pixels, spec.tile_pixels) if values.get("tiling") else pixels
    for term in spec.terms:
        if not holds(term.when, values):
            continue
        mib = term.mib
        if term.weights:
            mib += weights_mib * resident(spec, values)
        mib += term.kib_per_token * tokens(spec, width=width, height=height, frames=frames) / 1024
        mib += term.kib_per_pixel * tile / 1024
        mib += term.bytes_per_pixel_frame * pixels * frames / 1024**2
        stages[term.stage] = stages.get(term.stage, 0.0) + mib
    always = stages.pop("always", 0.0)
    return math.ceil(always + max(stages.values(), default=0.0))
