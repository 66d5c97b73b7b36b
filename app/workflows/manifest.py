"""The format of `workflow.toml`, typed. Reading it touches no other file.

Nodes are named by their title in the graph, which survives a re-export from ComfyUI; ids do not.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

Scalar: TypeAlias = bool | int | float | str
"""What a field, an option or a literal input of a node can hold."""

Target: TypeAlias = tuple[str, str]
"""Node title and input name."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class ManifestError(Exception):
    """A workflow folder cannot be used; the text names the file and the key."""

    def __init__(self, file: Path, key: str, problem: str) -> None:
        super().__init__(f"{file}: {key}: {problem}" if key else f"{file}: {problem}")
        self.file = file
        self.key = key
        self.problem = problem


class Part(BaseModel):
    """Base of every table of the file: unknown keys are refused, nothing is coerced."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FieldSpec(Part):
    """One value that a request or an operator can set.

    Attributes:
        type: Kind of value. An integer is accepted for a number, nothing else is converted.
        default: Value when none is given; absent where a rule decides, or where it is required.
        required: Whether a request must give it.
        min: Least value.
        max: Greatest value.
        multiple_of: The value must be a multiple of this.
        step: The value must be `min` plus a multiple of this.
        choices: The allowed texts.
        values: What a choice is bound as, where that is not the choice itself.
        min_length: Least number of characters.
        max_length: Greatest number of characters.
        description: What it does, for the person who asks.
        example: A value that works.
        supersedes: Fields of an earlier request that lose their value when a rerun sets this one.
        bind: Node inputs that get the value.
    """

    type: Literal["integer", "number", "boolean", "string"]
    default: Scalar | None = None
    required: bool = False
    min: int | float | None = None
    max: int | float | None = None
    multiple_of: int | None = Field(default=None, gt=0)
    step: int | None = Field(default=None, gt=0)
    choices: tuple[str, ...] | None = None
    values: dict[str, Scalar] = {}
    min_length: int | None = None
    max_length: int | None = None
    description: str
    example: Scalar | None = None
    supersedes: tuple[str, ...] = ()
    bind: tuple[Target, ...] = ()


class MediaSpec(Part):
    """One media file that a request needs.

    Attributes:
        kind: `image` or `video`.
        accept: Containers or encodings that are taken, for people.
        description: What should be on it.
        bind: Node inputs that get the uploaded file's name.
    """

    kind: Literal["image", "video"]
    accept: tuple[str, ...]
    description: str
    bind: tuple[Target, ...]


class Comparison(Part):
    """A test on a value; every part that is given must hold."""

    above: int | float | None = None
    below: int | float | None = None
    one_of: tuple[Scalar, ...] | None = None

    def holds(self, value: Scalar | None) -> bool:
        """Whether `value` passes; an absent value never does."""
        if value is None:
            return False
        if self.one_of is not None and value not in self.one_of:
            return False
        if self.above is None and self.below is None:
            return True
        if isinstance(value, str):
            return False
        return (self.above is None or value > self.above) and (
            self.below is None or value < self.below
        )


Condition: TypeAlias = dict[str, Scalar | Comparison]
"""Field or option name to the value it must have; all must hold, an empty one always does."""


def holds(condition: Mapping[str, Scalar | Comparison], values: Mapping[str, Any]) -> bool:
    """Whether every part of a condition holds for the values."""
    for name, wanted in condition.items():
        value = values.get(name)
        if isinstance(wanted, Comparison):
            if not wanted.holds(value):
                return False
        elif value != wanted:
            return False
    return True


class Rule(Part):
    """What changes in the graph's structure when a condition holds. Rules apply in order.

    Attributes:
        when: The condition.
        set: Node title, input name, literal.
        link: Node title, input name, title of the node that feeds it, that node's output slot.
        unlink: Inputs that are taken away.
        drop: Output nodes that are taken away, with all that only they need.
    """

    when: Condition = Field(alias="if")
    set: tuple[tuple[str, str, Scalar], ...] = ()
    link: tuple[tuple[str, str, str, int], ...] = ()
    unlink: tuple[Target, ...] = ()
    drop: tuple[str, ...] = ()


class OutputSpec(Part):
    """A file that the graph writes.

    Attributes:
        node: Title of the node that writes it.
        prefix_input: The node's input for the start of the file's name.
        suffix: What follows the attempt's own prefix in that name.
        files: Names it may have, best first, with `{prefix}` for prefix and suffix: this is how
            the output of an attempt that ComfyUI has forgotten is found.
    """

    node: str
    prefix_input: str = "filename_prefix"
    suffix: str = ""
    files: tuple[str, ...]


class PhaseSpec(Part):
    """Which nodes make up a phase, and its share of the run's time (any unit)."""

    share: float
    nodes: tuple[str, ...]


class Verified(Part):
    """Whether name and size were seen in a public source, or follow from a pattern or estimate."""

    name: bool
    size: bool


class ModelFile(Part):
    """A model file that the engine must have.

    Attributes:
        file: Name in the engine's folder, as its lists show it.
        folder: Folder under ComfyUI's `models`.
        repository: Hugging Face repository.
        path: Path in that repository.
        size_bytes: Size; exact where `verified.size` and `sha256` are given, else about.
        sha256: Hash, where a source states one.
        license: Licence as the repository states it.
        license_note: What restricts use, or why the licence is uncertain.
        verified: What was seen in a public source.
        needed: Operator options under which it is needed.
        listed: Node inputs whose list must show it.
    """

    file: str
    folder: str
    repository: str
    path: str
    size_bytes: int = Field(gt=0)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    license: str
    license_note: str = ""
    verified: Verified
    needed: Condition = {}
    listed: tuple[Target, ...] = ()


class Term(Part):
    """One part of the memory formula. The need is the largest stage plus what is `always` there.

    Attributes:
        stage: Stages follow one another, and what one held is given back before the next.
        when: Fields and options under which the term counts.
        mib: Constant part.
        weights: Whether the variant's weights count, less the blocks that are kept in RAM.
        kib_per_token: Per latent token of the sampler.
        kib_per_pixel: Per pixel of a frame, or of a tile where the option `tiling` is on.
        bytes_per_pixel_frame: Per pixel of every frame.
        source: Where the figure is from.
    """

    stage: str
    when: Condition = Field(default={}, alias="if")
    mib: float = 0
    weights: bool = False
    kib_per_token: float = 0
    kib_per_pixel: float = 0
    bytes_per_pixel_frame: float = 0
    source: str


class VramSpec(Part):
    """The memory formula.

    Attributes:
        terms: Its parts.
        blocks: Transformer blocks of the model that block swapping can keep in RAM.
        patch_pixels: Side of the square of pixels that is one token.
        frames_per_latent: Frames in one latent frame, after the first.
        extra_latents: Latent frames that the model appends.
        window_frames: Frames that are sampled at once at most (context windows).
        tile_pixels: Pixels of one tile when the option `tiling` is on.
    """

    terms: tuple[Term, ...] = ()
    blocks: int = 0
    patch_pixels: int = 16
    frames_per_latent: int = 4
    extra_latents: int = 0
    window_frames: int | None = None
    tile_pixels: int = 272 * 272


class Variant(Part):
    """A set of operator options that belong together, most of all the model file."""

    title: str
    options: dict[str, Scalar] = {}
    weights_mib: int = 0


class LowMemory(Part):
    """Operator options for the attempt after an out-of-memory error."""

    options: dict[str, Scalar] = {}


class Manifest(Part):
    """A whole `workflow.toml`."""

    title: str
    description: str
    rules: str = "plain"
    shape_fields: tuple[str, ...] = ()
    extra_frames: int = 0
    operator: dict[str, Scalar] = {}
    media: dict[Name, MediaSpec] = {}
    fields: dict[Name, FieldSpec]
    options: dict[Name, FieldSpec] = {}
    derived: dict[Name, tuple[Target, ...]] = {}
    rule: tuple[Rule, ...] = Field(default=(), alias="when")
    outputs: dict[Name, OutputSpec]
    phases: dict[Literal["starting", "loading", "sampling", "decoding", "encoding"], PhaseSpec] = {}
    models: tuple[ModelFile, ...] = ()
    variants: dict[Name, Variant] = {}
    low_memory: LowMemory = LowMemory()
    vram: VramSpec = VramSpec()


def _frozen(value: Any) -> Any:  # noqa: ANN401 - TOML holds anything
    """The same with tuples for lists, as the strict types above want them."""
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    return value


def read_manifest(file: Path) -> Manifest:
    """Read and type-check one file.

    Raises:
        ManifestError: The file is absent, is not TOML, or breaks the format.
    """
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ManifestError(file, "", str(error)) from error
    try:
        return Manifest.model_validate(_frozen(raw))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ManifestError(file, key, first["msg"]) from error
