"""`/system_stats`, `/features`, `/object_info`, `/models` and the small rest."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from mimetypes import guess_type
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.standin.answers import Json
from app.standin.memory import Memory
from app.standin.recorded import choices, recorded
from app.standin.state import Options

MODELS: Mapping[str, tuple[str, str]] = {
    "loras": ("WanVideoLoraSelect", "lora"),
    "vae": ("WanVideoVAELoader", "model_name"),
    "text_encoders": ("WanVideoTextEncodeCached", "model_name"),
    "diffusion_models": ("WanVideoModelLoader", "model"),
    "unet_gguf": ("WanVideoModelLoader", "model"),
    "clip_vision": ("CLIPVisionLoader", "clip_name"),
    "detection": ("OnnxDetectionModelLoader", "vitpose_model"),
}
"""Which input lists the files of a folder; the other folders are empty."""

PICTURES = (("LoadImage", "image"), ("LoadImageMask", "image"))
VIDEOS = (("LoadVideo", "file"), ("VHS_LoadVideo", "video"), ("VHS_LoadVideoFFmpeg", "video"))


class ServerInfo:
    """What the server says about itself."""

    def __init__(self, options: Options, object_info: Mapping[str, Any], memory: Memory) -> None:
        self._options = options
        self._info = object_info
        self._memory = memory
        self._recorded = recorded(options.version, "server")

    def routes(self) -> list[Route]:
        """Its routes."""
        return [
            Route("/system_stats", self._stats, methods=["GET"]),
            Route("/features", self._features, methods=["GET"]),
            Route("/object_info", self._object_info, methods=["GET"]),
            Route("/object_info/{kind}", self._one_kind, methods=["GET"]),
            Route("/models", self._models, methods=["GET"]),
            Route("/models/{folder}", self._folder, methods=["GET"]),
            Route("/embeddings", self._none, methods=["GET"]),
            Route("/extensions", self._none, methods=["GET"]),
        ]

    async def _stats(self, _request: Request) -> Response:
        page = os.sysconf("SC_PAGE_SIZE")
        total = page * os.sysconf("SC_PHYS_PAGES")
        free = page * os.sysconf("SC_AVPHYS_PAGES")
        system = {**self._recorded["system"], "ram_total": total, "ram_free": free}
        return Json({"system": system, "devices": [self._memory.device(total, free)]})

    async def _features(self, _request: Request) -> Response:
        limit = self._options.max_upload_bytes
        return Json({**self._recorded["features"], "max_upload_size": limit})

    async def _object_info(self, _request: Request) -> Response:
        return Json({**self._info, **self._uploads()})

    async def _one_kind(self, request: Request) -> Response:
        kind = request.path_params["kind"]
        known = {**self._info, **self._uploads()}
        return Json({kind: known[kind]} if kind in known else {})

    def _uploads(self) -> dict[str, Any]:
        """The loaders, listing what lies in the input folder; not what lies below it."""
        names = sorted(path.name for path in (self._options.directory / "input").iterdir())
        found = {}
        for loaders, kind in ((PICTURES, "image/"), (VIDEOS, "video/")):
            listed = [name for name in names if (guess_type(name)[0] or "").startswith(kind)]
            for loader, given in loaders:
                described = copy.deepcopy(self._info[loader])
                choices(described, given)[:] = listed
                found[loader] = described
        return found

    async def _models(self, _request: Request) -> Response:
        return Json(self._recorded["model_folders"])

    async def _folder(self, request: Request) -> Response:
        folder = request.path_params["folder"]
        if folder not in self._recorded["model_folders"]:
            return Response(status_code=404)
        if folder not in MODELS:
            return Json([])
        loader, given = MODELS[folder]
        names = choices(self._info[loader], given)
        if folder in {"unet_gguf", "diffusion_models"}:
            names = [name for name in names if name.endswith(".gguf") == (folder == "unet_gguf")]
        return Json(sorted(names))

    async def _none(self, _request: Request) -> Response:
        return Json([])
