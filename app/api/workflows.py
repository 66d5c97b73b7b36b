"""What can be asked for, whether it can run here now, and what it would take."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from app import errors, wire
from app.api.answers import BODY, CALLER, json_answer, json_body, refusals, tagged_answer
from app.api.body import read_model
from app.api.deps import Reader, TheServices
from app.api.examples import ESTIMATE
from app.api.services import Services
from app.errors import NotFound, UnknownWorkflow
from app.wire import MissingPart
from app.workflows.workflow import Workflow

router = APIRouter(prefix="/v1/workflows", tags=["workflows"])

Name = Annotated[str, Path(examples=["steadydancer"])]


@router.get(
    "",
    operation_id="list_workflows",
    summary="List the workflows",
    response_model=wire.WorkflowList,
    responses=refusals(*CALLER),
)
async def list_workflows(request: Request, services: TheServices, _caller: Reader) -> Response:
    """Give every installed workflow with its request's JSON Schema and its defaults."""
    views = tuple(_view(services, workflow) for workflow in services.workflows)
    return tagged_answer(request, wire.WorkflowList(workflows=views))


@router.get(
    "/{name}",
    operation_id="get_workflow",
    summary="Look at a workflow",
    response_model=wire.WorkflowView,
    responses=refusals(*CALLER, errors.NotFound),
)
async def get_workflow(name: Name, services: TheServices, _caller: Reader) -> Response:
    """Give a workflow; where it cannot run, with the nodes and model files that are missing."""
    return json_answer(_view(services, _find(services, name)))


@router.post(
    "/{name}/estimate",
    operation_id="estimate_request",
    summary="Say what a request would take",
    response_model=wire.Estimate,
    responses=refusals(*CALLER, *BODY, errors.NotFound),
    openapi_extra={"requestBody": json_body("EstimateRequest", **ESTIMATE)},
)
async def estimate_request(
    name: Name, request: Request, services: TheServices, caller: Reader
) -> Response:
    """Give memory, time and place in the queue of a request, and the request with its defaults.

    Nothing is stored and no URL is fetched; media may be left out.
    """
    workflow = _find(services, name)
    limit = services.limits.max_body_bytes
    asked = await read_model(request, wire.EstimateRequest, limit=limit)
    found = await services.submission.estimate(workflow.name, asked.request, caller=caller)
    return json_answer(found)


def _find(services: Services, name: str) -> Workflow:
    try:
        return services.workflows.get(name)
    except UnknownWorkflow as error:
        # In a path the name is the resource; in a body it is a field, and answered with 422.
        raise NotFound(error.detail) from error


def _view(services: Services, workflow: Workflow) -> wire.WorkflowView:
    missing = _missing(services, workflow.name)
    return wire.WorkflowView(
        name=workflow.name,
        title=workflow.title,
        description=workflow.description,
        available=missing is not None and not missing,
        missing=missing or (),
        variant=workflow.variant,
        media=workflow.media,
        defaults=workflow.defaults(),
        request_schema=workflow.schema(),
    )


def _missing(services: Services, name: str) -> tuple[MissingPart, ...] | None:
    """What the best engine lacks for a workflow; None while no ready engine was asked."""
    engines = services.stations.look()
    seen = [engine.missing[name] for engine in engines if engine.ready and name in engine.missing]
    if not seen:
        known = [engine.missing[name] for engine in engines if engine.missing.get(name)]
        return min(known, key=len) if known else None
    return min(seen, key=len)
