"""Every setting of the gateway: environment variables `GATEWAY_*`, read by main and cli only.

Durations are seconds, sizes bytes, memory MiB.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

_ROOT = Path(__file__).resolve().parent.parent


def _words(value: Any) -> Any:  # noqa: ANN401 - whatever the environment holds
    return tuple(shlex.split(value)) if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]
"""A command line, or a list separated by blanks."""


class Settings(BaseSettings):
    """What an operator can decide. Documented for people in `docs/configuration.md`."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_", frozen=True, env_ignore_empty=True)

    host: str = Field("127.0.0.1", description="Address to listen on; not loopback needs a key.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    make_first_key: bool = Field(
        default=False, description="Make an admin key if none exists, and print it once."
    )
    public_url: str | None = Field(None, description="Base of absolute links in webhooks.")
    data_dir: Path = Field(Path("data"), description="Database, spool files and logs live here.")
    database_url: str | None = Field(None, description="Default: SQLite in the data directory.")
    media_url: str | None = Field(
        None, description="s3://BUCKET/PREFIX for media; default: in the database."
    )
    media_endpoint: str | None = Field(None, description="URL of a storage not Amazon's.")
    media_region: str | None = Field(None, description="Region of the bucket.")
    media_access_key_id: str | None = Field(None, description="Name of the credential.")
    media_secret_access_key: SecretStr | None = Field(None, description="The credential.")
    media_delivery: Literal["proxy", "redirect"] = Field(
        "proxy", description="Whether objects go through the gateway or by links that end."
    )
    media_new: Literal["objects", "database"] = Field(
        "objects", description="Where new media go when media_url is set."
    )
    workflows_dir: Path = Field(_ROOT / "workflows", description="One folder for each workflow.")
    migrations_dir: Path = Field(_ROOT / "migrations", description="Alembic's folder.")
    log_format: Literal["auto", "json", "console"] = Field("auto", description="How to log.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Level.")

    comfyui_urls: Words = Field(
        ("http://127.0.0.1:8188",), description="ComfyUI servers, one for each GPU."
    )
    comfyui_command: Words = Field(
        (), description="Command that starts ComfyUI; when set, the gateway owns the process."
    )
    comfyui_dir: Path | None = Field(
        None, description="ComfyUI's base directory, for sweeping the files of stored jobs."
    )
    models_dir: Path | None = Field(
        None, description="ComfyUI's models folder; default: models in comfyui_dir."
    )
    engine_start_seconds: float = Field(600, gt=0, description="Longest start of the engine.")
    engine_silent_seconds: float = Field(
        300, gt=0, description="Silence after which an engine of the gateway's own is restarted."
    )
    proxy_command: Words = Field((), description="Command of the reverse proxy for port 8188.")

    admission: Literal["nvml", "off"] = Field("nvml", description="Ask NVML before each job.")
    gpus: Words = Field(
        (), description="GPU index or UUID for each engine; default: as CUDA sees them."
    )
    vram_margin_mib: int = Field(512, ge=0, description="Memory that is never given away.")
    backfill_seconds: float = Field(
        300, ge=0, description="How long smaller jobs may pass a waiting larger one."
    )
    workflow_overrides: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="JSON: operator choices for each workflow."
    )

    max_attempts: int = Field(3, ge=1, description="Attempts lost in mid-run before giving up.")
    max_stalls: int = Field(2, ge=1, description="Stalls before giving up.")
    poison_deaths: int = Field(2, ge=1, description="Engine deaths before quarantine.")
    stall_seconds: float = Field(300, gt=0, description="Silence that means a stall.")
    stall_loading_seconds: float = Field(900, gt=0, description="The same while models load.")
    interrupt_seconds: float = Field(
        60, gt=0, description="How long the engine may take to obey an interrupt."
    )
    quiet_seconds: float = Field(3, gt=0, description="Silence after which the engine is asked.")
    max_queue_seconds: float = Field(86_400, gt=0, description="Longest wait, and its default.")
    max_run_seconds: float = Field(7_200, gt=0, description="Longest run, and its default.")
    stop_seconds: float = Field(10, gt=0, description="Grace for a clean stop.")

    max_queued_jobs: int = Field(10_000, ge=1, description="Queue length at which 503 is said.")
    max_upload_bytes: int = Field(2 * 1024**3, ge=1, description="Largest media file.")
    max_body_bytes: int = Field(1024**2, ge=1, description="Largest JSON body.")
    max_pixels: int = Field(3840 * 2160 * 4, ge=1, description="Largest picture that is decoded.")
    max_video_seconds: float = Field(600, gt=0, description="Longest driving video.")
    max_video_frames: int = Field(36_000, ge=1, description="Most frames of a driving video.")
    upload_ttl_seconds: float = Field(86_400, gt=0, description="Unused uploads are kept so long.")
    idempotency_seconds: float = Field(86_400, gt=0, description="Replay window of a key.")

    keep_seconds: float = Field(30 * 86_400, gt=0, description="Finished jobs are kept so long.")
    keep_succeeded_seconds: float | None = Field(
        None, gt=0, description="The same for jobs that succeeded."
    )
    keep_failed_seconds: float | None = Field(
        None, gt=0, description="The same for jobs that failed."
    )
    keep_canceled_seconds: float | None = Field(
        None, gt=0, description="The same for jobs that were canceled."
    )
    keep_bytes: int = Field(50 * 1024**3, ge=0, description="Media bytes kept at most.")
    min_free_bytes: int = Field(512 * 1024**2, ge=0, description="Free disk that is always left.")

    requests_per_minute: int = Field(6_000, ge=1, description="Rate limit of a key.")
    upload_bytes_per_hour: int = Field(50 * 1024**3, ge=1, description="Upload quota of a key.")
    queued_jobs_per_key: int = Field(1_000, ge=1, description="Queued jobs a key may have.")
    watchers_per_key: int = Field(
        200, ge=1, description="Event streams and long polls a key may have open."
    )
    allow_hosts: Words = Field((), description="Private hosts that URLs may name all the same.")
    cors_origins: Words = Field((), description="Origins that browsers may call from.")

    worker_name: str | None = Field(
        None, description="Name of a worker among others; default the host's."
    )
    worker_lease_seconds: float = Field(
        30, ge=2, description="A worker that has not reported for so long is gone."
    )
    serverless_url: str | None = Field(
        None, description="RunPod Serverless endpoint that jobs go to when they waited too long."
    )
    serverless_key: SecretStr | None = Field(None, description="API key for that endpoint.")
    serverless_jobs: int = Field(3, ge=1, description="Jobs at the endpoint at once.")
    overflow_seconds: float = Field(
        60, ge=0, description="Age of a queued job at which it may go to the endpoint."
    )
    serverless_answer_bytes: int = Field(
        10_000_000, ge=1, description="Largest answer of the RunPod handler."
    )
    serverless_store: str | None = Field(
        None, description="Object storage for the handler's videos that are larger than that."
    )
    serverless_link_seconds: int = Field(
        86_400, gt=0, le=604_800, description="How long the link to such a video is good."
    )

    @property
    def models_path(self) -> Path | None:
        """ComfyUI's models folder; None where neither it nor ComfyUI's folder is set."""
        if self.models_dir is not None:
            return self.models_dir
        return None if self.comfyui_dir is None else self.comfyui_dir / "models"

    @property
    def store_url(self) -> str:
        """The database URL that is in force."""
        return self.database_url or f"sqlite:///{(self.data_dir / 'gateway.db').resolve()}"

    @property
    def is_shared(self) -> bool:
        """Whether the store is one that several machines use."""
        return self.store_url.startswith("postgresql")
