"""The wire models: what clients send and receive, shared by the API, the client and the stand-in.

Field names follow one rule: times are RFC 3339 UTC, durations end in `_seconds`, sizes in
`_bytes`, memory in `_mib`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

JobStatus = Literal["queued", "running", "succeeded", "failed", "canceled"]
TERMINAL_STATUSES: frozenset[JobStatus] = frozenset({"succeeded", "failed", "canceled"})
"""A job in one of these never changes again."""

Phase = Literal[
    "waiting_for_turn",
    "waiting_for_vram",
    "waiting_for_engine",
    "uploading",
    "staged",
    "starting",
    "loading",
    "sampling",
    "decoding",
    "encoding",
    "storing",
]

WebhookEventType = Literal["job.running", "job.succeeded", "job.failed", "job.canceled"]
EventType = Literal[
    "job.queued",
    "job.phase",
    "job.progress",
    "job.warning",
    "job.running",
    "job.succeeded",
    "job.failed",
    "job.canceled",
]


class Frozen(BaseModel):
    """Base of every wire model that the gateway makes: immutable."""

    model_config = ConfigDict(frozen=True)


class Asked(BaseModel):
    """Base of every wire model that a client sends: unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# --- media ---------------------------------------------------------------------------------


class MediaFacts(Frozen):
    """What probing found in a media file. Sizes are as displayed: rotation is applied.

    Attributes:
        kind: `image` or `video`.
        media_type: MIME type by content, such as `video/mp4`.
        width: Displayed width in pixels.
        height: Displayed height in pixels.
        frames: Number of video frames that decode; 1 for an image.
        fps: Average frame rate; None for an image.
        duration_seconds: Length of the video; None for an image.
        has_audio: Whether an audio stream is present.
        codec: Codec name as FFmpeg gives it.
        rotation: Degrees clockwise the stored picture must be turned for display.
    """

    kind: Literal["image", "video"]
    media_type: str
    width: int
    height: int
    frames: int
    fps: float | None = None
    duration_seconds: float | None = None
    has_audio: bool = False
    codec: str = ""
    rotation: int = 0


class Upload(MediaFacts):
    """A stored media file that requests can refer to."""

    id: str
    bytes: int
    sha256: str
    created_at: datetime


class UploadRef(Asked):
    """A media input that was uploaded before."""

    upload_id: str


class UrlRef(Asked):
    """A media input that the gateway fetches itself, never ComfyUI."""

    url: Annotated[str, StringConstraints(max_length=2048)]


class Base64Ref(Asked):
    """A media input inside the request."""

    base64: str


MediaRef = UploadRef | UrlRef | Base64Ref


# --- jobs ----------------------------------------------------------------------------------


class WebhookRequest(Asked):
    """Where to tell about the job, and what about."""

    url: Annotated[str, StringConstraints(max_length=2048)]
    events: tuple[WebhookEventType, ...] = ("job.succeeded", "job.failed", "job.canceled")


MetadataKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]
MOST_LABELS = 16


Seed = Annotated[int, Field(strict=True, ge=0, lt=2**53)]


class JobRequest(Asked):
    """`POST /v1/jobs`: what to run, and how it is to be treated.

    Attributes:
        workflow: Name of an installed workflow, as `GET /v1/workflows` lists them.
        request: The workflow's own typed request.
        seeds: One job for each, all of one `batch_id`; the first one is the answer. In place of
            the request's own `seed`.
        priority: Higher runs first; jobs of the same priority run in the order of arrival.
        metadata: The caller's own labels, echoed and searchable.
        webhook: Where to send signed events.
        max_queue_seconds: Fail with `deadline-exceeded` if not started by then.
        max_run_seconds: Fail with `deadline-exceeded` if an attempt runs longer.
    """

    workflow: Annotated[str, StringConstraints(max_length=64)] = "steadydancer"
    request: dict[str, JsonValue]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=2, max_length=16)] | None = None
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=MOST_LABELS)] = {}
    webhook: WebhookRequest | None = None
    max_queue_seconds: Annotated[float, Field(gt=0, le=604_800)] | None = None
    max_run_seconds: Annotated[float, Field(gt=0, le=86_400)] | None = None


class RerunRequest(Asked):
    """`POST /v1/jobs/{id}/rerun`: the same request with some fields changed."""

    overrides: dict[str, JsonValue] = {}


class Progress(Frozen):
    """How far the current attempt is. `fraction` never goes back within an attempt."""

    fraction: float = 0.0
    step: int | None = None
    steps: int | None = None
    node: str | None = None
    eta_seconds: float | None = None


class VramWait(Frozen):
    """Why a job waits for memory on the card."""

    need_mib: int
    room_mib: int
    free_mib: int
    engine_mib: int
    others_mib: int
    detail: str


class Artifact(Frozen):
    """A file that a job made."""

    name: str
    media_type: str
    bytes: int
    sha256: str
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    duration_seconds: float | None = None
    url: str


class JobError(Frozen):
    """Why a job failed. `type` is one of the documented failure slugs."""

    type: str
    title: str
    detail: str
    advice: str
    retryable: bool
    node_id: str | None = None
    node_type: str | None = None


class Usage(Frozen):
    """What the job cost so far."""

    queue_seconds: float | None = None
    gpu_seconds: float | None = None
    peak_vram_mib: int | None = None


class JobLinks(Frozen):
    """Paths of the job's own resources."""

    self: str
    cancel: str
    events: str
    video: str | None = None


class Job(Frozen):
    """The one resource everything speaks of. `key_id` is null where no key was needed."""

    id: str
    key_id: str | None = Field(default=None, description="API key that it was submitted with")
    workflow: str
    status: JobStatus
    phase: Phase | None
    progress: Progress
    queue_position: int | None
    waiting: VramWait | None = None
    reason: str | None = None
    priority: int
    attempt: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    cancel_requested: bool = False
    request: dict[str, JsonValue]
    metadata: dict[str, str]
    batch_id: str | None = None
    warnings: tuple[str, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    error: JobError | None = None
    usage: Usage = Usage()
    links: JobLinks


class JobPage(Frozen):
    """One page of a listing. `next_cursor` is None on the last page."""

    jobs: tuple[Job, ...]
    next_cursor: str | None = None


class Event(Frozen):
    """A fact about a job, from the stored log."""

    id: int
    job_id: str
    type: EventType
    at: datetime
    data: dict[str, JsonValue]


# --- problems ------------------------------------------------------------------------------


class ProblemField(Frozen):
    """One field at fault in a problem document."""

    pointer: str
    detail: str


class Problem(BaseModel):
    """RFC 9457 problem document; further members may be present."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str
    code: str
    title: str
    status: int
    detail: str
    errors: tuple[ProblemField, ...] = ()


# --- workflows and system ------------------------------------------------------------------


class MissingPart(Frozen):
    """A node, input or model file that the engine lacks for a workflow."""

    kind: Literal["node", "input", "model"]
    name: str
    detail: str


class WorkflowView(Frozen):
    """What can be asked for, and whether it can run here now."""

    name: str
    title: str
    description: str
    available: bool
    missing: tuple[MissingPart, ...] = ()
    variant: str | None = None
    media: dict[str, Literal["image", "video"]]
    defaults: dict[str, JsonValue]
    request_schema: dict[str, Any]


class WorkflowList(Frozen):
    """All installed workflows."""

    workflows: tuple[WorkflowView, ...]


class EstimateRequest(Asked):
    """`POST /v1/workflows/{name}/estimate`: a request that is priced, not stored."""

    request: dict[str, JsonValue]


class Estimate(Frozen):
    """What a request would need. `fits` is None while no card is read."""

    need_mib: int
    learned: bool
    fits: bool | None
    card_mib: int | None
    expected_seconds: float | None
    queue_position: int
    warnings: tuple[str, ...] = ()
    request: dict[str, JsonValue]


class GpuView(Frozen):
    """The card as NVML sees it now."""

    uuid: str
    name: str
    total_mib: int
    free_mib: int
    reserved_mib: int
    engine_mib: int | None
    others_mib: int | None
    utilization_percent: int | None = None
    temperature_celsius: int | None = None


class EngineView(Frozen):
    """ComfyUI's state."""

    name: str
    state: Literal["starting", "ready", "unreachable", "unhealthy", "stopped"]
    version: str | None = None
    detail: str | None = None
    gpu: GpuView | None = None
    gpu_problem: str | None = None
    admission: str
    running_job: str | None = None
    staged_job: str | None = None


class QueueView(Frozen):
    """The queue as a whole."""

    queued: int
    running: int
    oldest_queued_seconds: float | None = None


class StoreView(Frozen):
    """The store and its retention."""

    database_bytes: int
    media_bytes: int
    object_bytes: int = 0
    free_disk_bytes: int
    journal_mode: str


class System(Frozen):
    """`GET /v1/system`."""

    version: str
    admission: Literal["nvml", "off"]
    draining: bool
    engines: tuple[EngineView, ...]
    queue: QueueView
    store: StoreView
    retention: dict[str, JsonValue] = {}


class Check(Frozen):
    """One named part of readiness."""

    name: str
    ok: bool
    detail: str


class Readiness(Frozen):
    """`GET /readyz`."""

    ready: bool
    checks: tuple[Check, ...] = ()
