"""What a serverless worker says, as `app/serverless` says it; see docs/serverless.md. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from app.endpoint import Remote
from app.errors import FAILURES
from app.jobs import verdicts
from app.jobs.outcome import Failed, Lost
from app.jobs.queue import FailureNote, Report, Usage
from app.jobs.states import Loss

_PHASES = frozenset({"starting", "loading", "sampling", "decoding", "encoding", "storing"})
"""What a worker may say of a job that runs; its own waiting is a start for us."""


class Video(BaseModel):
    """Where the video is: in the answer, or behind a link."""

    sha256: str
    base64: str | None = None
    url: str | None = None


class _Usage(BaseModel):
    gpu_seconds: float | None = None
    peak_vram_mib: int | None = None


class _Job(BaseModel):
    usage: _Usage = _Usage()


class _Answer(BaseModel):
    job: _Job = _Job()
    video: Video


class _Told(BaseModel):
    phase: str | None = None
    fraction: float | None = Field(default=None, ge=0, le=1)
    step: int | None = None
    steps: int | None = None
    node: str | None = None


@dataclass(frozen=True, slots=True)
class Declined:
    """The worker did not take the job, for a reason that lies with the worker."""

    detail: str


def made(remote: Remote) -> tuple[Video, Usage] | None:
    """The video that a worker made; None where its answer has none."""
    try:
        answer = _Answer.model_validate(remote.output)
    except ValidationError:
        return None
    usage = answer.job.usage
    return answer.video, Usage(gpu_seconds=usage.gpu_seconds, peak_vram_mib=usage.peak_vram_mib)


def report(remote: Remote) -> Report | None:
    """What a worker tells of a run; None where it has told nothing yet."""
    try:
        told = _Told.model_validate(remote.output)
    except ValidationError:
        return None
    phase = told.phase if told.phase in _PHASES else "starting"
    return Report(phase, told.fraction, told.step, told.steps, told.node)


def failure(remote: Remote) -> Failed | Lost | Declined:
    """Why a job failed: as the worker says, or because the worker itself failed."""
    text = remote.error if isinstance(remote.error, str) else json.dumps(remote.error)
    problem = _problem(text)
    if problem is None:
        # Not of our handler: a worker that crashed, or an image that is none of ours.
        note = verdicts.of_loss(Loss.FORGOTTEN, "The endpoint's worker failed.")
        return Lost(
            Loss.FORGOTTEN, FailureNote(note.type, note.detail, private=text), usage(remote)
        )
    code, detail = str(problem["code"]), str(problem.get("detail", ""))
    if code not in FAILURES or "status" in problem:  # a refusal has the status that HTTP would give
        return Declined(detail)
    node_id, node_type = _text(problem.get("node_id")), _text(problem.get("node_type"))
    return Failed(FailureNote(code, detail, node_id, node_type, private=text), usage(remote))


def usage(remote: Remote) -> Usage:
    """What a job cost that did not end well: how long a worker had it."""
    seconds = None if remote.execution_ms is None else round(remote.execution_ms / 1000, 3)
    return Usage(gpu_seconds=seconds)


def _problem(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "code" in found else None


def _text(value: object) -> str | None:
    return None if value is None else str(value)
