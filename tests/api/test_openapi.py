"""The OpenAPI document: complete, as committed, and what the gateway really does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import pytest_asyncio
from pydantic import TypeAdapter

from app.api import examples
from app.api.health import explanations
from app.errors import FAILURES, GatewayError
from app.wire import JobRequest, RerunRequest
from tests.api import snapshots
from tests.apikit import World

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).resolve().parents[2]


@pytest_asyncio.fixture(loop_scope="module")
async def document(shared: World) -> dict[str, Any]:
    found: dict[str, Any] = (await shared.http.get("/openapi.json")).json()
    return found


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for path in document["paths"].values() for one in path.values()]


async def test_the_committed_document_is_the_one_that_is_served(document: dict[str, Any]) -> None:
    committed = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
    document["info"]["version"] = committed["info"]["version"]
    assert document == committed, "run `python -m tests.api.snapshots`"


async def test_every_operation_has_an_id_a_summary_a_description_and_its_errors(
    document: dict[str, Any],
) -> None:
    ids = [one["operationId"] for one in operations(document)]
    assert len(ids) == len(set(ids))
    for one in operations(document):
        assert one["summary"], one["operationId"]
        assert one["description"], one["operationId"]
        if "security" in one:
            assert {"401", "403", "429"} <= one["responses"].keys(), one["operationId"]


async def test_every_error_answer_is_a_problem_document(document: dict[str, Any]) -> None:
    for one in operations(document):
        for status, answer in one["responses"].items():
            if int(status) < 400 or one["operationId"] == "get_readiness":
                continue
            assert set(answer["content"]) == {"application/problem+json"}, one["operationId"]
            problem = answer["content"]["application/problem+json"]
            assert problem["schema"]["$ref"].endswith("/Problem")
            for code, example in problem["examples"].items():
                assert example["value"]["code"] == code
                assert example["value"]["status"] == int(status)


async def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    for found in re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)):
        assert found in document["components"]["schemas"], found


async def test_the_examples_are_requests_that_are_taken(document: dict[str, Any]) -> None:
    schemas = {"components": document["components"]}
    for model, shown in ((JobRequest, examples.JOB_REQUEST), (RerunRequest, examples.RERUN)):
        for example in shown.values():
            TypeAdapter(model).validate_json(json.dumps(example), strict=True)
            jsonschema.validate(
                example, {**schemas, "$ref": f"#/components/schemas/{model.__name__}"}
            )


async def test_a_job_is_what_the_document_says(shared: World, document: dict[str, Any]) -> None:
    job = await shared.job()
    await shared.succeed(job["id"])
    found = (await shared.http.get(f"/v1/jobs/{job['id']}")).json()
    jsonschema.validate(
        found, {"components": document["components"], "$ref": "#/components/schemas/Job"}
    )


async def test_every_code_is_explained_and_documented(shared: World) -> None:
    def kinds(of: type[GatewayError]) -> set[str]:
        return {of.code}.union(*(kinds(one) for one in of.__subclasses__()))

    told = explanations()
    answered = kinds(GatewayError) - {"misconfigured"}
    assert answered | FAILURES.keys() <= told.keys()
    for code, one in told.items():
        answer = await shared.http.get(f"/problems/{code}")
        assert answer.json()["title"] == one.title
    committed = (ROOT / "docs" / "problems.md").read_text(encoding="utf-8")
    assert committed == snapshots.problems(), "run `python -m tests.api.snapshots`"


async def test_the_page_for_people_shows_every_operation_and_needs_nothing_from_outside(
    shared: World, document: dict[str, Any]
) -> None:
    answer = await shared.http.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert "script" not in answer.headers["content-security-policy"]
    text = answer.text
    for one in operations(document):
        assert f"id={one['operationId']}" in text
    for workflow in shared.gateway.workflows:
        for name in workflow.schema()["properties"]:
            assert f"<code>{name}</code>" in text
    for outside in re.findall(r'(?:src|href)=["\']?(https?:[^"\' >]+)', text):
        raise AssertionError(outside)
    ids = re.findall(r"\bid=([\w-]+)", text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"href=#([\w-]+)", text)) <= set(ids)
