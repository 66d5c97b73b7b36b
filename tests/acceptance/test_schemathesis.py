"""The running API against its own OpenAPI document: every check, stateful, by schemathesis."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

from tests.apikit import serving, settings_in
from tests.mediakit import image_bytes, make_video

CONFIG = Path(__file__).with_name("schemathesis.toml")


async def test_the_api_keeps_what_its_document_promises(tmp_path: Path, migrated: Path) -> None:
    settings = settings_in(tmp_path / "data", migrated)
    settings = settings.model_copy(update={"requests_per_minute": 1_000_000})
    dance = make_video(tmp_path / "dance.mp4", frames=48).read_bytes()
    async with serving(settings, image_bytes(), dance) as world:
        # As if it were about to stop: event streams end and long polls are answered at once.
        world.app.state.services.stopping.set()
        key = await world.key("submit", "read", "admin")
        hook = {"url": "https://hooks.invalid/", "events": ["job.canceled"]}
        done, gone = await world.job(headers=key), await world.job(headers=key, webhook=hook)
        await world.succeed(done["id"])
        await world.http.post(f"/v1/jobs/{gone['id']}/cancel", headers=key)
        command = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
        assert command is not None
        run = await asyncio.create_subprocess_exec(
            command,
            "--config-file",
            str(CONFIG),
            "--no-color",
            "run",
            f"{world.http.base_url}/openapi.json",
            "--header",
            f"Authorization: {key['Authorization']}",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=tmp_path,
        )
        told, _ = await run.communicate()
        text = told.decode()
        still = await world.http.get("/v1/session", headers=key)
    assert run.returncode == 0, text
    assert still.status_code == 200, "the key was good to the end"
    assert "Stateful" in text, text
