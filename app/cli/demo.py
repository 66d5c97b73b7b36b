"""`demo`: the whole way of one job on this machine, without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import pairs, value_of
from app.cli.output import Stop

app = typer.Typer()

SAMPLES = Path(__file__).resolve().parents[2] / "docs" / "samples"


@app.command()
def demo(
    *,
    image: Annotated[
        Path | None, typer.Option(help="Your photo instead of the sample.", show_default=False)
    ] = None,
    video: Annotated[
        Path | None, typer.Option(help="Your dance instead of the sample.", show_default=False)
    ] = None,
    prompt: Annotated[str, typer.Option(help="What is to be seen.")] = "a person is dancing",
    output: Annotated[Path, typer.Option("--output", "-o", help="The mp4.")] = Path("demo.mp4"),
    directory: Annotated[Path, typer.Option(help="Where the servers keep their files.")] = Path(
        "demo-data"
    ),
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any other field of the request."),
    ] = None,
) -> None:
    """Run the main job on a stand-in for ComfyUI: no GPU, no models.

    Starts the stand-in and the gateway on free ports, sends the photo and the dance, shows the
    progress, writes the mp4 and checks it. On a terminal the servers then stay up until Ctrl-C.
    The video shows the stand-in's picture, not the model's.

    Try:

        steadydancer demo
        steadydancer demo --image me.jpg --video dance.mp4
    """
    photo, dance = image or SAMPLES / "photo.jpg", video or SAMPLES / "dance.mp4"
    for path in (photo, dance):
        if not path.is_file():
            raise Stop(f"There is no file {path}.")
    from app.cli.showcase import Showcase

    request = {name: value_of(text) for name, text in pairs(set_ or [], "--set").items()}
    show = Showcase(directory=directory, photo=photo, dance=dance, target=output)
    raise typer.Exit(show.run({"prompt": prompt, **request}))
