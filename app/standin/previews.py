"""The small pictures a sampler sends while it works."""

from __future__ import annotations

import io
import json
import struct

from app.standin.state import Sockets

PREVIEW = 1
PREVIEW_WITH_METADATA = 4
JPEG = 1


class Previews:
    """Sends previews in either of ComfyUI's two binary forms."""

    def __init__(self, sockets: Sockets) -> None:
        self._sockets = sockets

    def send_plain(self, client_id: str | None, step: int) -> None:
        """Type 1: format, then the image."""
        frame = struct.pack(">II", PREVIEW, JPEG) + _picture(step)
        self._sockets.send_bytes(frame, client_id)

    def send(self, prompt_id: str, node_id: str, client_id: str | None, step: int) -> None:
        """Type 4: which node of which prompt, then the image."""
        metadata = {
            "node_id": node_id,
            "prompt_id": prompt_id,
            "display_node_id": node_id,
            "parent_node_id": None,
            "real_node_id": node_id,
            "image_type": "image/jpeg",
        }
        text = json.dumps(metadata).encode()
        head = struct.pack(">II", PREVIEW_WITH_METADATA, len(text))
        self._sockets.send_bytes(head + text + _picture(step), client_id)


def _picture(step: int) -> bytes:
    from PIL import Image, ImageDraw  # noqa: PLC0415 - keeps the start quick

    image = Image.new("RGB", (96, 96), (40, 40, min(255, 60 + step * 20)))
    ImageDraw.Draw(image).text((4, 4), f"step {step}", fill=(255, 255, 255))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()
