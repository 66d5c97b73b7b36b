"""`status`, `watch`, `download`, `cancel`, `delete` and `list`: jobs that there are."""

from __future__ import annotations

import sys
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import DEFAULT_URL, JobId, Json, Key, Url, connect, pairs
from app.cli.output import ExitCode, Stop, note, outcome, say, say_json, say_line, size

app = typer.Typer()


class Status(StrEnum):
    """The statuses of a job."""

    queued = "queued"
    running = "running"
    succeeded = "succeeded"
    failed = "failed"
    canceled = "canceled"


@app.command()
def status(
    *,
    job_id: Annotated[
        str | None,
        typer.Argument(
            metavar="JOB", help="A job; without one, the whole system.", show_default=False
        ),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Print the system once instead of keeping it up.")
    ] = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Look at a job, or at the GPU and the queue.

    Without a job, on a terminal, the view stays up until Ctrl-C.

    Try:

        steadydancer status
        steadydancer status JOB --json
    """
    from app.cli import views

    if job_id is None:
        if as_json:
            with connect(url, key) as client:
                say_json(client.system())
            return
        keep = sys.stdout.isatty() and not once  # piped, it is printed once
        with connect(url, key) as client:
            views.show_system(client, keep=keep)
        return
    with connect(url, key) as client:
        job = client.get(job_id)
    if as_json:
        say_json(job)
    else:
        views.show_job(job)


@app.command()
def watch(
    *,
    job_ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="JOB...",
            help="Jobs; without one, all that have not ended.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print lines of JSON: each event of one job, or each of several when it changed.",
        ),
    ] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Watch jobs until they have ended.

    One job has a bar, several have a table. Ctrl-C ends the watching, not the jobs.

    Try:

        steadydancer watch JOB
        steadydancer watch
        steadydancer watch JOB --json | jq .type
        steadydancer watch --json | jq -r '[.id, .status] | @tsv'
    """
    wanted = job_ids or []
    if len(wanted) == 1 and as_json:
        raise typer.Exit(_print_events(wanted[0], url, key))
    from app.cli import views
    from app.cli.submitting import see_through

    if len(wanted) == 1:
        with connect(url, key) as client:
            job = client.get(wanted[0])
        raise typer.Exit(see_through(job, url, key))
    see = views.print_changes if as_json else views.watch_jobs
    with connect(url, key, patient=as_json) as client:
        ended = see(client, wanted)
    codes = {outcome(job) for job in ended}
    worst = (ExitCode.JOB_FAILED, ExitCode.CANCELED)
    raise typer.Exit(next((code for code in worst if code in codes), ExitCode.OK))


def _print_events(job_id: str, url: str, key: str | None) -> ExitCode:
    from app.client import Preview

    with connect(url, key, patient=True) as client:
        for event in client.events(job_id):
            if not isinstance(event, Preview):
                say_line(event)
        return outcome(client.get(job_id))


@app.command()
def download(
    *,
    job_id: JobId,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Default: JOB.mp4.", show_default=False),
    ] = None,
    artifact: Annotated[
        str, typer.Option("--artifact", "-a", help="video, poster, pose, graph or request.")
    ] = "video",
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace a file that holds something else.")
    ] = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Download what a job made.

    Goes on where an earlier download stopped, and checks the SHA-256 before the file is in place.

    Try:

        steadydancer download JOB -o me-dancing.mp4
        steadydancer download JOB --artifact graph
    """
    with connect(url, key, patient=True) as client:
        if artifact in {"graph", "request"} and output is None:
            say_json(client.document(job_id, artifact))
            return
        if artifact in {"graph", "request"}:
            raise typer.BadParameter(f"{artifact} is printed; redirect it.", param_hint="--output")
        suffix = {"video": ".mp4", "pose": "-pose.mp4", "poster": "-poster.jpg"}.get(artifact, "")
        target = output or Path(f"{job_id}{suffix}")
        from app.cli.live import screen
        from app.client.downloading import is_there

        if target.exists() and not force:
            made = {one.name: one for one in client.get(job_id).artifacts}
            if artifact not in made or not is_there(target, made[artifact]):
                raise Stop(f"{target} is there already and is another file. --force replaces it.")
        with screen() as shown:
            got = client.download(job_id, target, artifact=artifact, on_bytes=shown.received)
    if as_json:
        say_json({**got.model_dump(mode="json"), "file": str(target)})
    else:
        say(f"{target}: {size(got.bytes)}, SHA-256 {got.sha256}")


@app.command()
def cancel(
    *, job_id: JobId, as_json: Json = False, url: Url = DEFAULT_URL, key: Key = None
) -> None:
    """Cancel a job: a queued one at once, a running one by stopping it.

    Of a job that has ended nothing changes; the answer says how it ended.

    Try:

        steadydancer cancel JOB
    """
    with connect(url, key) as client:
        job = client.cancel(job_id)
    if as_json:
        say_json(job)
    elif job.status == "running":
        say("The engine is stopping it.")
    elif job.status == "canceled":
        say("The job is canceled.")
    else:
        say(f"The job had ended first: {job.status}.")


@app.command()
def delete(
    *, job_id: JobId, as_json: Json = False, url: Url = DEFAULT_URL, key: Key = None
) -> None:
    """Delete a job that has ended, with all that it made.

    Try:

        steadydancer delete JOB
    """
    with connect(url, key) as client:
        client.delete(job_id)
    if as_json:
        say_json({"deleted": job_id})
    else:
        note("Deleted.")


@app.command("list")
def list_(
    *,
    status_: Annotated[
        list[Status] | None, typer.Option("--status", "-s", help="Only these. Repeatable.")
    ] = None,
    workflow: Annotated[
        str | None, typer.Option("--workflow", "-w", help="Only this workflow.", show_default=False)
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", "-m", metavar="KEY=VALUE", help="Only with this label."),
    ] = None,
    after: Annotated[
        datetime | None, typer.Option(help="Created at this time or later.", show_default=False)
    ] = None,
    before: Annotated[
        datetime | None, typer.Option(help="Created before this time.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON each.")] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """List jobs, newest first.

    Try:

        steadydancer list --status failed
        steadydancer list --limit 1000 --json | jq -r .id
    """
    from itertools import islice

    from app.cli import views

    with connect(url, key) as client:
        found = client.list(
            status=[one.value for one in status_ or []],
            workflow=workflow,
            metadata=pairs(metadata or [], "--metadata"),
            created_after=after,
            created_before=before,
            page_size=min(limit, 200),
        )
        jobs = islice(found, limit)
        if as_json:
            for job in jobs:
                say_line(job)
        else:
            views.show_jobs(list(jobs))
