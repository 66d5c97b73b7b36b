"""`submit` and `rerun`: new jobs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import DEFAULT_URL, JobId, Json, Key, Url, connect, pairs, value_of
from app.cli.output import ExitCode, note, note_failure, outcome, say, say_json, size
from app.cli.request import DANCE, PHOTO, put_together

if TYPE_CHECKING:
    from app import wire
    from app.client import GatewayClient

app = typer.Typer()

_REQUEST = "What is made"
_JOB = "How the job is treated"
_HERE = "What this command does"

Detach = Annotated[
    bool,
    typer.Option("--detach", "-d", help="Do not wait for the end.", rich_help_panel=_HERE),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Write the mp4 here when it is done.",
        show_default=False,
        rich_help_panel=_HERE,
    ),
]
IdempotencyKey = Annotated[
    str | None,
    typer.Option(
        help="Your name for this submission: sent again, it gives the same job.",
        show_default=False,
        rich_help_panel=_JOB,
    ),
]


@app.command()
def submit(
    *,
    image: Annotated[
        str | None,
        typer.Option(
            "--image",
            "-i",
            help="The photo: a file, a URL, or upload:ID.",
            show_default=False,
            rich_help_panel=_REQUEST,
        ),
    ] = None,
    video: Annotated[
        str | None,
        typer.Option(
            "--video",
            "-v",
            help="The dance: a file, a URL, or upload:ID.",
            show_default=False,
            rich_help_panel=_REQUEST,
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            "-p",
            help="What is to be seen.",
            show_default=False,
            rich_help_panel=_REQUEST,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="480p, 576p or 720p.", show_default=False, rich_help_panel=_REQUEST),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(help="fast or quality.", show_default=False, rich_help_panel=_REQUEST),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Default: chosen.", show_default=False, rich_help_panel=_REQUEST),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            metavar="NAME=VALUE",
            help="Any other field, such as frames=41; `workflows show` lists them. Repeatable.",
            rich_help_panel=_REQUEST,
        ),
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=PATH",
            help="A media field of another workflow. Repeatable.",
            rich_help_panel=_REQUEST,
        ),
    ] = None,
    request: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Request as JSON, - for standard input; options take the place of its fields.",
            show_default=False,
            rich_help_panel=_REQUEST,
        ),
    ] = None,
    workflow: Annotated[
        str | None,
        typer.Option(
            "--workflow",
            "-w",
            help="Another workflow than steadydancer.",
            show_default=False,
            rich_help_panel=_REQUEST,
        ),
    ] = None,
    priority: Annotated[
        int | None,
        typer.Option(
            min=-100, max=100, help="Higher runs first.", show_default=False, rich_help_panel=_JOB
        ),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            "--metadata",
            "-m",
            metavar="KEY=VALUE",
            help="A label of yours. Repeatable.",
            rich_help_panel=_JOB,
        ),
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Told how it ends.", show_default=False, rich_help_panel=_JOB
        ),
    ] = None,
    idempotency_key: IdempotencyKey = None,
    output: Output = None,
    detach: Detach = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Submit a job and see it through.

    Sends the files, shows the progress, and ends with the job. Ctrl-C leaves the job running.

    Try:

        steadydancer submit -i me.jpg -v dance.mp4 -p "a person is dancing" -o out.mp4
        steadydancer submit -i me.jpg -v dance.mp4 -p "a dancer" --set frames=41 --detach
        steadydancer submit --workflow smoke -i me.jpg -v dance.mp4 --json
    """
    asked = put_together(
        base=request,
        fields={"prompt": prompt, "preset": preset, "mode": mode, "seed": seed},
        sets=set_ or [],
        media={PHOTO: image, DANCE: video},
        more_media=file or [],
        envelope={
            "workflow": workflow,
            "priority": priority,
            "metadata": pairs(metadata or [], "--metadata"),
            "webhook": {"url": webhook} if webhook else None,
        },
    )
    from app.cli.live import screen

    checked = asked.checked()
    with connect(url, key) as client, screen() as shown:
        job = client.submit(
            checked, files=asked.files, idempotency_key=idempotency_key, on_bytes=shown.sent
        )
    raise typer.Exit(see_through(job, url, key, output=output, detach=detach, as_json=as_json))


@app.command()
def rerun(
    *,
    job_id: JobId,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            metavar="NAME=VALUE",
            help="A field that is to change; null takes it back to its default. Repeatable.",
            rich_help_panel=_REQUEST,
        ),
    ] = None,
    idempotency_key: IdempotencyKey = None,
    output: Output = None,
    detach: Detach = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Run a job again, with some fields changed.

    Try:

        steadydancer rerun JOB --set seed=null -o another.mp4
        steadydancer rerun JOB --set preset=720p --set 'prompt="on a beach"'
    """
    overrides = {name: value_of(text) for name, text in pairs(set_ or [], "--set").items()}
    with connect(url, key) as client:
        job = client.rerun(job_id, overrides=overrides, idempotency_key=idempotency_key)
    raise typer.Exit(see_through(job, url, key, output=output, detach=detach, as_json=as_json))


def see_through(
    job: wire.Job,
    url: str,
    key: str | None,
    *,
    output: Path | None = None,
    detach: bool = False,
    as_json: bool = False,
) -> ExitCode:
    """Show a job until it has ended, fetch its video, print the job, give the exit code."""
    for warning in job.warnings:
        note(f"Note: {warning}")
    if detach:
        _print(job, as_json=as_json)
        return ExitCode.OK
    if not as_json:
        note(f"Job {job.id}")
    with connect(url, key, patient=True) as client:
        job = _watched(client, job, output)
    if job.status == "failed":
        note_failure(job)
    _print(job, as_json=as_json)
    return outcome(job)


def _watched(client: GatewayClient, job: wire.Job, output: Path | None) -> wire.Job:
    from app.cli.live import follow, screen

    try:
        with screen() as shown:
            job = follow(client, job, shown)
            if job.status == "succeeded" and output is not None:
                video = client.download(job.id, output, on_bytes=shown.received)
    except KeyboardInterrupt:
        note()
        note(f"The job goes on. See it with: steadydancer watch {job.id}")
        note(f"Or end it with:               steadydancer cancel {job.id}")
        raise
    if job.status == "succeeded" and output is not None:
        note(
            f"{output}: {video.width} x {video.height}, {video.frames} frames at {video.fps:g} per "
            f"second, {size(video.bytes)}"
        )
    return job


def _print(job: wire.Job, *, as_json: bool) -> None:
    if as_json:
        say_json(job)
    else:
        say(job.id)
