"""`python -m app.standin`: serve a stand-in ComfyUI until told to end."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from pathlib import Path

from app.standin.recorded import object_info
from app.standin.serve import listen, serve_forever
from app.standin.server import Standin
from app.standin.state import Options


def main() -> None:
    """Read the flags and serve."""
    arguments = _parser().parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    directory = arguments.directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    models = None
    if arguments.models_from is not None:
        models = json.loads(arguments.models_from.read_text())
        for place, names in models.items():
            sys.stderr.write(f"stand-in: {place} also lists {', '.join(names)}\n")
    options = Options(
        version=arguments.version,
        directory=directory,
        step_seconds=arguments.step_seconds,
        work=not arguments.no_work,
        output_bytes=arguments.output_bytes,
        max_upload_bytes=int(arguments.max_upload_size * 1024 * 1024),
        need_mib=_figures(arguments.need_mib),
        previews=arguments.preview_method != "none",
        history_lag_seconds=arguments.history_lag_seconds,
        vram_total_mib=arguments.vram_total_mib,
        cuda_allocate=arguments.cuda_allocate,
    )
    info = object_info(options.version, probes=arguments.probe_nodes, models=models)
    standin = Standin(options, info)
    for text in arguments.misbehave:
        standin.misbehavior.parse(text)
    asyncio.run(serve_forever(standin, listen(arguments.listen, arguments.port)))


def _figures(given: list[str]) -> dict[str, int]:
    """`NODE=MIB` or `MIB` (for any prompt), the latter under an empty name."""
    parts = [text.rpartition("=") for text in given]
    return {kind: int(mib) for kind, _, mib in parts}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app.standin", description=__doc__)
    add = parser.add_argument
    add("--listen", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=8188, help="0 takes a free one")
    add("--version", choices=["0.28.1", "0.10.0"], default="0.28.1", help="whom to be")
    add("--directory", type=Path, required=True, help="holds input, output, temp and the run log")
    add("--step-seconds", type=float, default=0.05, help="how long one sampling step takes")
    add("--no-work", action="store_true", help="copy a ready video of the right shape")
    add("--output-bytes", type=int, default=0, help="fill every video up to this size")
    add("--models-from", type=Path, help='JSON: {"NodeClass.input": ["file", ...]} listed too')
    add("--max-upload-size", type=float, default=100, help="limit of a request body, in MB")
    add("--probe-nodes", action="store_true", help="offer ProbeSlow and ProbeRaise")
    add("--vram-total-mib", type=int, default=0, help="pretend to have a card of this size")
    add(
        "--need-mib",
        action="append",
        default=[],
        metavar="[NODE=]MIB",
        help="memory that the models of any prompt, or of one with such a node, hold until /free",
    )
    add("--cuda-allocate", action="store_true", help="really allocate it, with torch on cuda:0")
    add("--preview-method", choices=["auto", "none"], default="auto", help="previews of samplers")
    add(
        "--history-lag-seconds",
        type=float,
        default=0.005,
        help="how long after execution_success the history knows a prompt",
    )
    add(
        "--misbehave",
        action="append",
        default=[],
        metavar="MODE[:k=v,...]",
        help="do something wrong; settings: times, node, at_step, seconds, exception_type, message",
    )
    return parser


if __name__ == "__main__":
    main()
