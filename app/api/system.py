"""The state of the whole: card, engine, queue, store; and the operator's brake."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from fastapi import APIRouter, Request, Response
from pydantic import JsonValue
from sqlmodel import Session, col

from app import wire
from app.access.scopes import Caller, seen_owner
from app.api.answers import CALLER, json_answer, refusals, tagged_answer
from app.api.deps import Admin, Reader, TheServices
from app.api.models import LearnedMemory, LearnedShape
from app.api.services import Services
from app.gpu import estimate
from app.gpu.monitor import Picture
from app.jobs import views
from app.jobs.janitor import Kept, Retention, kept_bytes
from app.jobs.states import TERMINAL
from app.jobs.stations import EngineState
from app.jobs.tables import Job

if TYPE_CHECKING:
    from app.jobs.overflow import Overflow

router = APIRouter(prefix="/v1/system", tags=["system"])


@router.get(
    "",
    operation_id="get_system",
    summary="Look at the system",
    response_model=wire.System,
    responses=refusals(*CALLER),
)
async def get_system(request: Request, services: TheServices, caller: Reader) -> Response:
    """Give the card, admission's verdict, the queue, the engines, the store and its retention."""
    return tagged_answer(request, await system(services, caller))


@router.get(
    "/memory",
    operation_id="get_learned_memory",
    summary="Say what runs took",
    response_model=LearnedMemory,
    responses=refusals(*CALLER),
)
async def get_learned_memory(request: Request, services: TheServices, _caller: Reader) -> Response:
    """Give the GPU memory that was measured for each shape, which admission goes by."""
    found = await services.db.read(estimate.summary)
    shapes = tuple(
        LearnedShape.model_validate({**asdict(one.key), **_figures(one)}) for one in found
    )
    return tagged_answer(request, LearnedMemory(shapes=shapes))


def _figures(one: estimate.Learned) -> dict[str, Any]:
    return {name: value for name, value in asdict(one).items() if name != "key"}


@router.post(
    "/drain",
    operation_id="drain",
    summary="Start no more jobs",
    response_model=wire.System,
    responses=refusals(*CALLER),
)
async def drain(services: TheServices, caller: Admin) -> Response:
    """Let what runs end and start nothing new. Submissions are still taken and wait."""
    return await _set_draining(services, caller, draining=True)


@router.post(
    "/resume",
    operation_id="resume",
    summary="Start jobs again",
    response_model=wire.System,
    responses=refusals(*CALLER),
)
async def resume(services: TheServices, caller: Admin) -> Response:
    """End a drain."""
    return await _set_draining(services, caller, draining=False)


async def _set_draining(services: Services, caller: Caller, *, draining: bool) -> Response:
    await services.stations.drain(draining=draining)
    if services.overflow is not None:
        services.overflow.draining = draining
        services.overflow.wake()
    return json_answer(await system(services, caller))


async def system(services: Services, caller: Caller) -> wire.System:
    """The state as a caller may see it."""
    engines = services.stations.look()
    overflow = services.overflow
    running = [job for engine in engines for job in engine.jobs]
    running += overflow.jobs if overflow is not None else []
    owner = seen_owner(caller)

    def look(session: Session) -> tuple[views.QueueState, Kept, set[str]]:
        query = sa.select(col(Job.id)).where(col(Job.id).in_(running))
        if owner is not None:
            query = query.where(col(Job.owner) == owner)
        seen = set(session.execute(query).scalars())
        return views.queue_state(session), kept_bytes(session), seen

    queue, media, seen = await services.db.read(look)
    now = services.now()
    oldest = queue.oldest_queued_at
    return wire.System(
        version=services.version,
        admission="nvml" if any(one.reads_card for one in engines) else "off",
        draining=any(one.draining for one in engines),
        engines=(
            *(_engine(one, seen) for one in engines),
            *([_endpoint(overflow, seen)] if overflow is not None else []),
        ),
        queue=wire.QueueView(
            queued=queue.queued,
            running=queue.running,
            oldest_queued_seconds=None if oldest is None else (now - oldest).total_seconds(),
        ),
        store=wire.StoreView(
            database_bytes=database_bytes(services.db.path),
            media_bytes=media.total,
            object_bytes=media.in_objects,
            free_disk_bytes=services.free_bytes(),
            journal_mode=services.db.journal_mode,
        ),
        retention=_retention(services.retention),
    )


def database_bytes(path: Path | None) -> int:
    """Size of the SQLite file with its log; 0 for a database that is no file of ours."""
    if path is None:
        return 0
    files = (path, path.with_name(f"{path.name}-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


def _engine(engine: EngineState, seen: set[str]) -> wire.EngineView:
    jobs = [job if job in seen else None for job in engine.jobs]
    first, second = [*jobs, None, None][:2]
    return wire.EngineView(
        name=engine.name,
        state=engine.state,
        version=engine.version,
        detail=engine.detail,
        gpu=_gpu(engine.picture),
        gpu_problem=engine.card_problem,
        admission=engine.verdict if engine.reads_card else engine.card_verdict,
        running_job=first,
        staged_job=second,
    )


def _endpoint(overflow: Overflow, seen: set[str]) -> wire.EngineView:
    """The serverless endpoint, as an engine without a card that is read."""
    return wire.EngineView(
        name=overflow.name,
        state=overflow.state,
        detail=overflow.detail,
        admission=overflow.verdict,
        running_job=next((job for job in overflow.jobs if job in seen), None),
    )


def _gpu(picture: Picture | None) -> wire.GpuView | None:
    if picture is None:
        return None
    reading, held = picture.reading, picture.engine.held_mib
    return wire.GpuView(
        uuid=reading.uuid,
        name=reading.name,
        total_mib=reading.total_mib,
        free_mib=reading.free_mib,
        reserved_mib=reading.reserved_mib,
        engine_mib=held,
        others_mib=None if held is None else max(0, reading.used_mib - held),
        utilization_percent=reading.utilization_percent,
        temperature_celsius=reading.temperature_celsius,
    )


def _retention(retention: Retention) -> dict[str, JsonValue]:
    return {
        "keep_seconds": retention.keep.total_seconds(),
        **{
            f"keep_{status}_seconds": retention.of(status).total_seconds()
            for status in sorted(TERMINAL)
        },
        "keep_bytes": retention.keep_bytes,
        "min_free_bytes": retention.min_free_bytes,
        "upload_seconds": retention.uploads.total_seconds(),
        "idempotency_seconds": retention.idempotency.total_seconds(),
    }
