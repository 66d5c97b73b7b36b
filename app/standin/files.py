"""`/upload/image` and `/view`: files in and out."""

from __future__ import annotations

import filecmp
import shutil
import tempfile
from pathlib import Path

import anyio
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.standin.answers import Json
from app.standin.fileanswer import file_answer
from app.standin.inputs import KINDS
from app.standin.state import Options


class Files:
    """Stores what is sent without a look at it, and serves what is there."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def routes(self) -> list[Route]:
        """Its routes."""
        return [
            Route("/upload/image", self._upload, methods=["POST"]),
            Route("/view", self._view, methods=["GET", "HEAD"]),
        ]

    async def _upload(self, request: Request) -> Response:
        async with request.form() as form:
            image = form.get("image")
            if not isinstance(image, UploadFile) or not image.filename:
                return Response(status_code=400)
            kind = str(form.get("type") or "input")
            if kind not in KINDS:
                raise ValueError(kind)
            subfolder = str(form.get("subfolder") or "")
            overwrite = form.get("overwrite") in {"true", "1"}
            base = self._options.directory / kind
            folder = (base / subfolder).resolve()
            if not folder.is_relative_to(base.resolve()):
                return Response(status_code=400)
            name = image.filename
            if not (folder / name).resolve().is_relative_to(base.resolve()):
                return Response(status_code=400)
            stored = await anyio.to_thread.run_sync(_store, image, folder, name, overwrite)
        return Json({"name": stored, "subfolder": subfolder, "type": kind})

    async def _view(self, request: Request) -> Response:
        query = request.query_params
        name = query.get("filename")
        if not name:
            return Response(status_code=404)
        if name.startswith("/") or ".." in name:
            return Response(status_code=400)
        kind = query.get("type", "output")
        if kind not in KINDS:
            return Response(status_code=400)
        base = (self._options.directory / kind).resolve()
        folder = (base / query.get("subfolder", "")).resolve()
        if not folder.is_relative_to(base):
            return Response(status_code=403)
        path = folder / Path(name).name
        if not path.is_file():
            return Response(status_code=404)
        headers = {"Content-Disposition": f'filename="{path.name}"'}
        if self._options.modern:
            headers["X-Content-Type-Options"] = "nosniff"
        return file_answer(request, path, headers)


def _store(upload: UploadFile, folder: Path, name: str, overwrite: bool) -> str:  # noqa: FBT001
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".upload-", delete=False) as file:
        shutil.copyfileobj(upload.file, file)
        sent = Path(file.name)
    target = folder / name
    if not overwrite:
        number = 0
        while target.exists():
            if filecmp.cmp(target, sent, shallow=False):
                sent.unlink()
                return target.name
            number += 1
            target = folder / f"{Path(name).stem} ({number}){Path(name).suffix}"
    sent.replace(target)
    return target.name
