"""`serve`, `worker` and `openapi`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.output import Stop, say_json

if TYPE_CHECKING:
    from app.settings import Settings

app = typer.Typer()


@app.command()
def serve(
    *,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; default GATEWAY_HOST, or 127.0.0.1.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port; default GATEWAY_PORT, or 8000. 0 takes one."),
    ] = None,
    announce: Annotated[
        bool, typer.Option("--announce", help="Print a line of JSON when it answers.")
    ] = False,
) -> None:
    """Run the gateway in front of ComfyUI.

    Everything else is set by GATEWAY_* variables; see docs/configuration.md.

    Try:

        steadydancer serve
        GATEWAY_COMFYUI_URLS=http://127.0.0.1:8188 steadydancer serve --port 8080
    """
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = read_settings(**given)
    from app.cli.server import serve as run

    raise typer.Exit(run(settings, announce=announce))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serverless() -> None:
    """Run a worker of RunPod Serverless: the gateway's jobs come from its queue.

    Flags of RunPod's SDK are passed on, such as --rp_serve_api for its local server. See
    docs/serverless.md.

    Try:

        steadydancer serverless --rp_serve_api --rp_api_port 8000
    """
    settings = read_settings()
    from app.serverless.handler import start

    start(settings)


@app.command()
def worker(
    *,
    name: Annotated[
        str | None,
        typer.Option(help="What it is called; default GATEWAY_WORKER_NAME, or the host's name."),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address for health and metrics; default GATEWAY_HOST.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of those; default GATEWAY_PORT, or 8000."),
    ] = None,
    announce: Annotated[
        bool, typer.Option("--announce", help="Print a line of JSON when it answers.")
    ] = False,
) -> None:
    """Run jobs of a shared queue on this machine's ComfyUI; see docs/fleet.md.

    Try:

        GATEWAY_DATABASE_URL=postgresql+psycopg://user:secret@db/gateway steadydancer worker
    """
    asked = (("worker_name", name), ("host", host), ("port", port))
    given = {setting: value for setting, value in asked if value is not None}
    settings = read_settings(**given)
    from app.cli.server import serve as run

    raise typer.Exit(run(settings, announce=announce, worker=True))


@app.command()
def openapi() -> None:
    """Print the API's OpenAPI document. Starts nothing and needs no GPU."""
    from app.main import create_app

    say_json(create_app(read_settings(admission="off")).openapi())


def read_settings(**given: Any) -> Settings:  # noqa: ANN401 - as the settings say
    """The settings: what is given here, then the environment.

    Raises:
        Stop: A setting has a wrong value; in words that name the variable.
    """
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from app.settings import Settings

    try:
        return Settings(**given)
    except SettingsError as error:
        raise Stop(f"{error}.") from error
    except ValidationError as error:
        faults = [
            f"  GATEWAY_{'_'.join(str(part) for part in fault['loc']).upper()}: {fault['msg']} "
            f"(it is {fault['input']!r})"
            for fault in error.errors(include_url=False)
        ]
        raise Stop("\n".join(["A setting has a wrong value.", *faults])) from error
