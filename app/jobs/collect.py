"""Fetching what an attempt made, checking it, and storing its bytes before anybody needs them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from uuid_utils import uuid7

from app.comfy.client import ComfyClient
from app.comfy.messages import HistoryEntry, OutputFile
from app.errors import UnsupportedMedia
from app.jobs.queue import NewArtifact
from app.jobs.together import together
from app.media.files import storing, unlink
from app.media.output import Expected, finish_video
from app.media.sandbox import Sandbox
from app.media.store import BlobStore, StoredBlob
from app.wire import MediaFacts
from app.workflows.values import Expectation
from app.workflows.workflow import Workflow

VIDEO = "video"
"""The artifact that every workflow must make."""

Write = Callable[[Path], Awaitable[None]]
"""Puts a file where it is told."""


class OutputUnusable(Exception):
    """The engine called the run done, but its video is missing or broken."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Collector:
    """Collects the outputs of attempts."""

    def __init__(self, *, store: BlobStore, sandbox: Sandbox, spool: Path) -> None:
        self._store = store
        self._sandbox = sandbox
        self._spool = spool

    async def collect(
        self,
        client: ComfyClient,
        entry: HistoryEntry,
        *,
        workflow: Workflow,
        graph: Mapping[str, Any],
        expects: Expectation,
        comment: str,
    ) -> Sequence[NewArtifact]:
        """Store the files that the engine's history names.

        Raises:
            OutputUnusable: The video is missing, does not decode, or is not what was asked for.
            EngineError: ComfyUI does not answer.
            StorageFull: No room for it.
            StoreUnavailable: The object storage cannot be reached.
        """
        found: dict[str, OutputFile] = {}
        for name, node_id in workflow.outputs(graph).items():
            files = [file for file in entry.outputs if file.node_id == node_id and _is_video(file)]
            if files:
                found[name] = files[-1]
        if VIDEO not in found:
            raise OutputUnusable("The engine finished without naming a video.")
        return await self._store_all(client, found, workflow.title, expects, comment)

    async def recover(
        self,
        client: ComfyClient,
        prefix: str,
        *,
        workflow: Workflow,
        expects: Expectation,
        comment: str,
    ) -> Sequence[NewArtifact] | None:
        """Look for the video of an attempt that the engine has forgotten, by its own prefix.

        Returns:
            The artifacts; None if there is no whole video.
        """
        for path in workflow.output_files(VIDEO, prefix=prefix):
            subfolder, _, filename = path.rpartition("/")
            file = OutputFile(filename, subfolder, "output")
            try:
                if await client.exists(file):
                    return await self._store_all(
                        client, {VIDEO: file}, workflow.title, expects, comment
                    )
            except OutputUnusable:
                continue
        return None

    async def keep(
        self, write: Write, *, workflow: Workflow, expects: Expectation, comment: str
    ) -> Sequence[NewArtifact]:
        """Store a video that comes from elsewhere than an engine of ours.

        Args:
            write: Puts the file where it is told; what it raises is passed on.
            workflow: What made it.
            expects: What it must be.
            comment: Comment that the mp4 is to carry.

        Raises:
            OutputUnusable: It does not decode, or is not what was asked for.
            StorageFull: No room for it.
        """
        expected = _expected(VIDEO, expects)
        try:
            return await self._store_one(write, VIDEO, workflow.title, expected, comment)
        except UnsupportedMedia as error:
            raise OutputUnusable(str(error)) from error

    async def _store_all(
        self,
        client: ComfyClient,
        files: Mapping[str, OutputFile],
        title: str,
        expects: Expectation,
        comment: str,
    ) -> Sequence[NewArtifact]:
        made: list[NewArtifact] = []
        for name, file in files.items():
            write = partial(self._download, client, file)
            expected = _expected(name, expects)
            try:
                made += await self._store_one(write, name, title, expected, comment)
            except (OutputUnusable, UnsupportedMedia) as error:
                if name == VIDEO:
                    raise OutputUnusable(str(error)) from error
        return made

    async def _store_one(
        self, write: Write, name: str, title: str, expected: Expected, comment: str
    ) -> list[NewArtifact]:
        path = self._spool / str(uuid7())
        try:
            await write(path)
            async with finish_video(
                path,
                expected=expected,
                title=title,
                comment=comment,
                sandbox=self._sandbox,
                spool=self._spool,
            ) as finished:
                video = self._store.put_file(finished.video, media_type="video/mp4")
                if name != VIDEO:
                    return [_video(name, await video, finished.facts)]
                poster = self._store.put_file(finished.poster, media_type="image/jpeg")
                made, drawn = await together(video, poster)  # they share a commit
                return [
                    _video(name, made, finished.facts),
                    NewArtifact(
                        "poster",
                        drawn.id,
                        "image/jpeg",
                        finished.poster_width,
                        finished.poster_height,
                    ),
                ]
        finally:
            await unlink(path)

    async def _download(self, client: ComfyClient, file: OutputFile, path: Path) -> None:
        try:
            with storing():
                async with (
                    await anyio.open_file(path, "xb") as target,
                    aclosing(client.download(file)) as pieces,
                ):
                    async for piece in pieces:
                        await target.write(piece)
        except FileNotFoundError as error:
            raise OutputUnusable("The engine names a video that it does not have.") from error


def _video(name: str, blob: StoredBlob, facts: MediaFacts) -> NewArtifact:
    return NewArtifact(
        name,
        blob.id,
        "video/mp4",
        facts.width,
        facts.height,
        facts.frames,
        facts.fps,
        facts.duration_seconds,
    )


def _expected(name: str, expects: Expectation) -> Expected:
    if name != VIDEO:
        return Expected()
    return Expected(expects.width, expects.height, expects.frames, expects.fps)


def _is_video(file: OutputFile) -> bool:
    return file.filename.lower().endswith((".mp4", ".webm", ".mov", ".mkv"))
