"""`/system_stats`, `/features`, `/object_info`, `/models` and the small rest."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.standin.answers import Json
from app.standin.memory import Memory
from app.standin.sockets import features
from app.standin.state import Options

FOLDERS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "loras": (("WanVideoLoraSelect", "lora"),),
    "vae": (("WanVideoVAELoader", "model_name"),),
    "text_encoders": (("WanVideoTextEncodeCached", "model_name"),),
    "diffusion_models": (("WanVideoModelLoader", "model"),),
    "clip_vision": (("CLIPVisionLoader", "clip_name"),),
    "detection": (
        ("OnnxDetectionModelLoader", "vitpose_model"),
        ("OnnxDetectionModelLoader", "yolo_model"),
    ),
    "unet_gguf": (("WanVideoModelLoader", "model"),),
}
EMPTY_FOLDERS = [
    "checkpoints",
    "configs",
    "style_models",
    "embeddings",
    "diffusers",
    "vae_approx",
    "controlnet",
    "gligen",
    "upscale_models",
    "latent_upscale_models",
    "custom_nodes",
    "hypernetworks",
    "photomaker",
    "classifiers",
    "model_patches",
    "audio_encoders",
    "wav2vec2",
    "nlf",
    "mmaudio",
    "kjnodes_fonts",
    "VHS_video_formats",
]
NEW_EMPTY_FOLDERS = [
    "background_removal",
    "frame_interpolation",
    "geometry_estimation",
    "optical_flow",
]


class ServerInfo:
    """What the server says about itself."""

    def __init__(self, options: Options, object_info: Mapping[str, Any], memory: Memory) -> None:
        self._options = options
        self._info = object_info
        self._memory = memory

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
        system: dict[str, Any] = {
            "os": platform.system().lower(),
            "ram_total": total,
            "ram_free": free,
            "comfyui_version": self._options.version,
            "required_frontend_version": "1.45.21" if self._options.modern else "1.36.14",
            "installed_templates_version": None,
            "required_templates_version": "0.11.11" if self._options.modern else "0.8.14",
            "python_version": sys.version,
            "pytorch_version": "none (stand-in)",
            "embedded_python": False,
            "argv": list(sys.argv),
        }
        if self._options.modern:
            system |= {"comfy_package_versions": [], "deploy_environment": "stand-in"}
        return Json({"system": system, "devices": [self._memory.device(total, free)]})

    async def _features(self, _request: Request) -> Response:
        return Json(features(self._options))

    async def _object_info(self, _request: Request) -> Response:
        return Json(self._info)

    async def _one_kind(self, request: Request) -> Response:
        kind = request.path_params["kind"]
        return Json({kind: self._info[kind]} if kind in self._info else {})

    async def _models(self, _request: Request) -> Response:
        more = NEW_EMPTY_FOLDERS if self._options.modern else []
        return Json([*FOLDERS, *EMPTY_FOLDERS, *more])

    async def _folder(self, request: Request) -> Response:
        folder = request.path_params["folder"]
        if folder in {*EMPTY_FOLDERS, *NEW_EMPTY_FOLDERS}:
            return Json([])
        if folder not in FOLDERS:
            return Response(status_code=404)
        names: dict[str, None] = {}
        for kind, name in FOLDERS[folder]:
            required = self._info[kind]["input"]["required"]
            listed = required[name][0]
            names |= dict.fromkeys(
                listed if isinstance(listed, list) else required[name][1]["options"]
            )
        if folder in {"unet_gguf", "diffusion_models"}:
            names = {n: None for n in names if n.endswith(".gguf") == (folder == "unet_gguf")}
        return Json(sorted(names))

    async def _none(self, _request: Request) -> Response:
        return Json([])
