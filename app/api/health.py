"""For machines that watch: liveness, readiness, metrics, and what each problem means."""

from __future__ import annotations

import inspect

import sqlalchemy as sa
from fastapi import APIRouter, Request, Response
from sqlmodel import Session, col

from app import wire
from app.access.scopes import Scope
from app.api.answers import CALLER, json_answer, refusals
from app.api.deps import Reader, TheDoorman, TheServices
from app.api.models import Alive
from app.api.problems import HTTP_PROBLEMS, MALFORMED_REQUEST, STATUS
from app.api.services import Services
from app.api.system import database_bytes
from app.errors import FAILURES, Forbidden, NotFound, StorageFull, StoreUnavailable, Unauthorized
from app.jobs import views
from app.jobs.janitor import Kept, kept_bytes
from app.jobs.states import Status
from app.jobs.tables import Job
from app.wire import Check

router = APIRouter(tags=["health"])

_MIB = 1 << 20


@router.get(
    "/healthz",
    operation_id="get_health",
    summary="Say whether the process answers",
    response_model=Alive,
)
@router.head("/healthz", include_in_schema=False)
async def get_health() -> Response:
    """Answer. Nothing is looked at, so that a restart is not asked for where it would not help."""
    return json_answer(Alive())


@router.get(
    "/readyz",
    operation_id="get_readiness",
    summary="Say whether jobs can run",
    response_model=wire.Readiness,
    responses={503: {"description": "Not ready.", "model": wire.Readiness}},
)
@router.head("/readyz", include_in_schema=False)
async def get_readiness(request: Request, services: TheServices, doorman: TheDoorman) -> Response:
    """Check store, engine, workflows and card. Who has a key is told what was found."""
    checks = await readiness(services)
    ready = all(check.ok for check in checks)
    shown = checks if await _may_read(request, doorman) else ()
    return json_answer(wire.Readiness(ready=ready, checks=shown), status=200 if ready else 503)


async def _may_read(request: Request, doorman: TheDoorman) -> bool:
    try:
        return (await doorman.caller(request)).has(Scope.READ)
    except (Unauthorized, Forbidden, StoreUnavailable):
        return False


async def readiness(services: Services) -> tuple[Check, ...]:
    """Every part of readiness by name."""
    engines = services.stations.look()
    up = [engine for engine in engines if engine.ready]
    runnable = [one.name for one in services.workflows if any(e.can_run(one.name) for e in up)]
    blocked = [one.name for one in services.workflows if one.name not in runnable]
    draining = any(engine.draining for engine in engines)
    return (
        await _store(services),
        *await _objects(services),
        Check(
            name="engine",
            ok=bool(up),
            detail="; ".join(
                f"{engine.name}: {engine.state}" + (f" ({engine.detail})" if engine.detail else "")
                for engine in engines
            )
            or "no worker has reported",
        ),
        Check(
            name="workflows",
            ok=bool(runnable),
            detail=f"can run: {', '.join(runnable) or 'none'}"
            + (f"; cannot: {', '.join(blocked)}" if blocked else ""),
        ),
        Check(
            name="gpu",
            ok=any(not one.reads_card or one.card_problem is None for one in engines),
            detail="; ".join(one.card_verdict for one in engines) or "no worker has reported",
        ),
        Check(name="draining", ok=not draining, detail="draining" if draining else "no"),
    )


async def _store(services: Services) -> Check:
    try:
        await services.db.write(lambda session: session.execute(sa.text("SELECT 1")).scalar())
    except (StoreUnavailable, StorageFull) as error:
        return Check(name="store", ok=False, detail=error.detail)
    free = services.free_bytes()
    if free < services.min_free_bytes:
        return Check(name="store", ok=False, detail=f"only {free:,} bytes are free on its disk")
    return Check(name="store", ok=True, detail=f"writable, journal {services.db.journal_mode}")


async def _objects(services: Services) -> tuple[Check, ...]:
    if not services.store.uses_objects:
        return ()
    try:
        await services.store.check()
    except StoreUnavailable as error:
        return (Check(name="objects", ok=False, detail=error.detail),)
    return (Check(name="objects", ok=True, detail="reachable"),)


@router.get(
    "/metrics",
    operation_id="get_metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={
        200: {"description": "Text.", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **refusals(*CALLER),
    },
)
async def get_metrics(services: TheServices, _caller: Reader) -> Response:
    """Give every metric in Prometheus' text format. Needs a key with the scope `read`."""
    await _gather(services)
    body, content_type = services.metrics.render()
    return Response(body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})


async def _gather(services: Services) -> None:
    """Bring the gauges up to date: they show what is there, not what happened."""
    metrics = services.metrics

    def look(
        session: Session,
    ) -> tuple[dict[str, int], dict[str, int], views.QueueState, Kept]:
        by_status = sa.select(col(Job.status), sa.func.count()).group_by(col(Job.status))
        queued = (
            sa.select(col(Job.phase), sa.func.count())
            .where(col(Job.status) == Status.QUEUED)
            .group_by(col(Job.phase))
        )
        return (
            {str(status): count for status, count in session.execute(by_status)},
            {str(phase): count for phase, count in session.execute(queued)},
            views.queue_state(session),
            kept_bytes(session),
        )

    statuses, phases, queue, media = await services.db.read(look)
    for status in Status:
        metrics.jobs.labels(status.value).set(statuses.get(status.value, 0))
    for phase in ("waiting_for_turn", "waiting_for_vram", "waiting_for_engine"):
        metrics.queue_depth.labels(phase).set(phases.get(phase, 0))
    oldest = queue.oldest_queued_at
    age = (services.now() - oldest).total_seconds() if oldest is not None else 0.0
    metrics.queue_age.set(age)
    metrics.store_bytes.labels("media").set(media.total)
    metrics.store_bytes.labels("objects").set(media.in_objects)
    metrics.store_bytes.labels("database").set(database_bytes(services.db.path))
    metrics.store_bytes.labels("free_disk").set(services.free_bytes())
    for engine in services.stations.look():
        metrics.engine_up.labels(engine.name).set(engine.ready)
        if engine.picture is None:
            continue
        reading, held = engine.picture.reading, engine.picture.engine.held_mib
        metrics.vram_total.labels(reading.uuid).set(reading.total_mib * _MIB)
        metrics.vram_free.labels(reading.uuid).set(reading.free_mib * _MIB)
        metrics.vram_engine.labels(reading.uuid).set((held or 0) * _MIB)
        room = reading.free_mib + (held or 0) - engine.margin_mib
        metrics.vram_room.labels(reading.uuid).set(max(0, room) * _MIB)
        metrics.vram_need.labels(reading.uuid).set((engine.next_need_mib or 0) * _MIB)


# --- what a problem means ------------------------------------------------------------------------


@router.get("/problems/{code}", include_in_schema=False)
async def get_problem(code: str) -> Response:
    """Say what a problem's `type` stands for: the address in it leads here."""
    found = explanations().get(code)
    if found is None:
        raise NotFound(f"There is no problem {code[:64]!r}.")
    return json_answer(found)


class Explanation(wire.Frozen):
    """A kind of problem. `status` is None for the failure of a job, which is no HTTP answer."""

    code: str
    title: str
    status: int | None
    description: str


def explanations() -> dict[str, Explanation]:
    """Every code that an answer or a failed job can carry."""
    found = {
        name: Explanation(
            code=name,
            title=failure.title,
            status=None,
            description=f"A job ended as `failed`. {failure.advice} "
            + ("It is worth a retry." if failure.retryable else "A retry will not help."),
        )
        for name, failure in FAILURES.items()
    }
    for status, (code, title) in (*HTTP_PROBLEMS.items(), (400, MALFORMED_REQUEST)):
        found[code] = Explanation(code=code, title=title, status=status, description=f"{title}.")
    for kind, status in STATUS.items():
        text = inspect.getdoc(kind) or kind.title
        found[kind.code] = Explanation(
            code=kind.code, title=kind.title, status=status, description=" ".join(text.split())
        )
    return found
