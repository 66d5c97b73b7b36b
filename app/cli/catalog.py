"""`workflows`: what can be asked for, and the graph that a request comes to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.options import DEFAULT_URL, Json, Key, Url, connect, json_object
from app.cli.output import duration, say, say_json

app = typer.Typer(
    name="workflows",
    help="What can be asked for.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@app.command("list")
def list_(*, as_json: Json = False, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """List the workflows, and say whether each can run now.

    Try:

        steadydancer workflows list
    """
    with connect(url, key) as client:
        found = client.workflows()
    if as_json:
        say_json([view.model_dump(mode="json") for view in found])
        return
    for view in found:
        say(f"{view.name:<16} {'can run' if view.available else 'cannot run':<11} {view.title}")
        for part in view.missing:
            say(f"{'':<16} missing {part.kind} {part.name}: {part.detail}")


@app.command()
def show(
    *,
    name: Annotated[str, typer.Argument(help="Its name.", show_default=False)],
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Show a workflow: its media, and every field with its default and its rule.

    Try:

        steadydancer workflows show steadydancer
    """
    with connect(url, key) as client:
        view = client.workflow(name)
    if as_json:
        say_json(view)
        return
    say(f"{view.name}: {view.title}" + (f" ({view.variant})" if view.variant else ""))
    say(f"  {view.description}")
    for part in view.missing:
        say(f"  missing {part.kind} {part.name}: {part.detail}")
    required = set(view.request_schema.get("required", ()))
    say()
    for field, facts in view.request_schema.get("properties", {}).items():
        say(f"  {field:<24} {_kind(field, facts, view.defaults, required)}")
        if facts.get("description"):
            say(f"  {'':<24} {facts['description']}")


def _kind(field: str, facts: dict[str, Any], defaults: dict[str, Any], required: set[str]) -> str:
    words = " or ".join(facts["enum"]) if "enum" in facts else str(facts.get("type", "media"))
    bounds = [str(facts[name]) for name in ("minimum", "maximum") if name in facts]
    if bounds:
        words += f" {' to '.join(bounds)}"
    if field in required:
        return f"{words}, required"
    return f"{words}, default {defaults[field]!r}" if field in defaults else words


@app.command()
def estimate(
    *,
    name: Annotated[str, typer.Argument(help="Its name.", show_default=False)],
    request: Annotated[
        Path, typer.Option(metavar="FILE", help="Request as JSON; - for standard input.")
    ],
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Say what a request would take: memory, time, place in the queue. Nothing is stored.

    Try:

        echo '{"prompt": "a dancer", "preset": "720p"}' |
          steadydancer workflows estimate steadydancer --request -
    """
    asked = json_object(request, "--request")
    with connect(url, key) as client:
        found = client.estimate(asked, workflow=name)
    if as_json:
        say_json(found)
        return
    fits = {True: "fits", False: "does not fit", None: "nobody knows whether it fits"}[found.fits]
    card = f" of {found.card_mib:,} MiB" if found.card_mib is not None else ""
    source = "learned" if found.learned else "by formula"
    say(f"memory  {found.need_mib:,} MiB{card} ({source}): {fits}")
    say(f"time    {duration(found.expected_seconds)}")
    say(f"queue   {found.queue_position} ahead")
    for warning in found.warnings:
        say(f"note    {warning}")


@app.command()
def render(
    *,
    name: Annotated[str, typer.Argument(help="Its name.", show_default=False)],
    request: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="Request as JSON, without its media; - for standard input."
        ),
    ],
    low_memory: Annotated[
        bool, typer.Option("--low-memory", help="As after an out-of-memory error.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed where the request gives none.")] = 0,
) -> None:
    """Print the ComfyUI graph that a request would run. Needs no server.

    Where the media would be named, the graph has their fields' names. GATEWAY_WORKFLOWS_DIR and
    GATEWAY_WORKFLOW_OVERRIDES count.

    Try:

        echo '{"prompt": "a dancer"}' | steadydancer workflows render steadydancer --request -
    """
    from app.cli.serving import read_settings
    from app.workflows.registry import load_workflows

    asked = json_object(request, "--request")
    settings = read_settings()
    workflow = load_workflows(settings.workflows_dir, overrides=settings.workflow_overrides).get(
        name
    )
    given = {field: value for field, value in asked.items() if field not in workflow.media}
    resolved = workflow.resolve(given, {}, seed=seed)
    files = {field: field for field in workflow.media}
    say_json(workflow.render(resolved.request, files, prefix="PREFIX", low_memory=low_memory))
