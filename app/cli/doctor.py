"""`steadydancer doctor`: what is wrong on this machine, and what to do."""

from __future__ import annotations

import typer

from app.cli.options import Json
from app.cli.output import ExitCode, say, say_json
from app.cli.serving import read_settings

app = typer.Typer()

_WORDS = {"ok": "ok", "warn": "WARN", "fail": "FAIL", "skip": "-"}


@app.command()
def doctor(*, as_json: Json = False) -> None:
    """Look at GPU, ComfyUI, nodes, models, disk, port, database and clock; change nothing.

    Exit code 1 if something keeps jobs from running; warnings leave it 0.
    """
    import asyncio
    import os
    from dataclasses import asdict
    from datetime import UTC, datetime
    from functools import partial

    from app.doctor.examine import driver_text, examine
    from app.gpu.nvml import cards_of

    settings = read_settings()
    engines = len(settings.comfyui_urls)
    findings = asyncio.run(
        examine(
            settings,
            find_cards=partial(cards_of, settings.gpus, engines=engines, environ=os.environ),
            driver_text=driver_text(),
            now=lambda: datetime.now(UTC),
        )
    )
    failed = any(finding.status == "fail" for finding in findings)
    if as_json:
        say_json({"ok": not failed, "checks": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            say(f"{_WORDS[finding.status]:<5} {finding.name}: {finding.detail}")
            if finding.advice:
                say(f"      -> {finding.advice}")
        bad = sum(finding.status == "fail" for finding in findings)
        unsure = sum(finding.status == "warn" for finding in findings)
        say(f"{len(findings)} checks: {bad} failed, {unsure} with warnings.")
    raise typer.Exit(ExitCode.JOB_FAILED if failed else ExitCode.OK)
