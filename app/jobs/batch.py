"""Several jobs of one request: one for each seed, stored together under one batch id."""

from __future__ import annotations

from typing import Any

from app import wire
from app.errors import FieldError, InvalidRequest
from app.workflows.workflow import Workflow


def each_request(asked: wire.JobRequest) -> list[dict[str, Any]]:
    """The workflow's requests that are asked for: one, or one for each seed."""
    if asked.seeds is None:
        return [asked.request]
    return [{**asked.request, "seed": seed} for seed in asked.seeds]


def check_seeds(asked: wire.JobRequest, workflow: Workflow) -> None:
    """Refuse seeds that contradict one another or the request.

    Raises:
        InvalidRequest: They do.
    """
    seeds = asked.seeds
    if seeds is None:
        return
    fault = None
    if "seed" not in workflow.schema()["properties"]:
        fault = f"The workflow {workflow.name!r} has no seed; leave `seeds` out."
    elif asked.request.get("seed") is not None:
        fault = "`seeds` and the request's `seed` say the same thing twice; leave one out."
    elif len(set(seeds)) < len(seeds):
        fault = "A seed is named twice, which makes the same video twice; name each once."
    if fault is not None:
        raise InvalidRequest(fault, errors=[FieldError("/seeds", fault)])
