"""`steadydancer models`: list, verify and download the files that the workflows need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import Json

app = typer.Typer(no_args_is_help=True, help="The model files that the workflows need.")

_ModelsDir = Annotated[
    Path | None,
    typer.Option(
        "--models-dir",
        help="ComfyUI's models folder; default GATEWAY_MODELS_DIR, or in GATEWAY_COMFYUI_DIR.",
    ),
]
_Workflow = Annotated[str | None, typer.Option("--workflow", help="Only this workflow.")]
_Variant = Annotated[str | None, typer.Option("--variant", help="In place of the operator's.")]


@app.command("list")
def list_files(
    *,
    workflow: _Workflow = None,
    variant: _Variant = None,
    models_dir: _ModelsDir = None,
    every: Annotated[bool, typer.Option("--all", help="Files of every variant.")] = False,
    as_json: Json = False,
) -> None:
    """Show the files, their sizes and licenses, who needs them, and whether they are here."""
    from app.cli import model_files

    code = model_files.list_files(
        workflow=workflow, variant=variant, models_dir=models_dir, every=every, as_json=as_json
    )
    raise typer.Exit(code)


@app.command()
def verify(
    *,
    workflow: _Workflow = None,
    variant: _Variant = None,
    models_dir: _ModelsDir = None,
    online: Annotated[
        bool,
        typer.Option("--online", help="Ask the repositories for what the manifest does not say."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Read every needed file and check it by size and SHA-256.

    Exit code 1 if one is missing or wrong.
    """
    from app.cli import model_files

    code = model_files.verify(
        workflow=workflow, variant=variant, models_dir=models_dir, online=online, as_json=as_json
    )
    raise typer.Exit(code)


@app.command()
def download(
    *,
    workflow: _Workflow = None,
    variant: _Variant = None,
    models_dir: _ModelsDir = None,
    parallel: Annotated[int, typer.Option(min=1, max=16, help="Files at once.")] = 3,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Ask the repositories, say what is missing, fetch nothing."),
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Overwrite files of another size.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring what is missing, and nothing that no workflow needs. Goes on where it broke off.

    Files come from the Hugging Face Hub; HF_ENDPOINT names a mirror, HF_TOKEN a token. Exit code
    1 if one did not come.

    Examples:
        steadydancer models download --models-dir /opt/ComfyUI/models

        steadydancer models download --variant q6_k --dry-run
    """
    from app.cli import model_files

    code = model_files.download(
        workflow=workflow,
        variant=variant,
        models_dir=models_dir,
        parallel=parallel,
        dry_run=dry_run,
        replace=replace,
        as_json=as_json,
    )
    raise typer.Exit(code)
