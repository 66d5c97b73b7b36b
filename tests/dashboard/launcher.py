"""Runs the real application with a simulated card in place of NVML's.

The card shows what the stand-in says it holds, and what `OTHERS_FILE` says that others hold.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import httpx
import uvicorn

from app.gateway import Gateway
from app.gpu.simulated import SimulatedCard
from app.main import create_app
from app.settings import Settings
from app.telemetry import configure_logging

TOTAL_MIB = 24_576
CONTEXT_MIB = 400
_ENGINE, _OTHERS = 100, 200


def _follow(url: str, card: SimulatedCard) -> None:
    with httpx.Client(timeout=2) as client:
        while True:
            try:
                device = client.get(f"{url}/system_stats").json()["devices"][0]
                card.hold(_ENGINE, CONTEXT_MIB + (int(device["torch_vram_total"]) >> 20))
            except httpx.HTTPError:
                card.exit(_ENGINE)
            time.sleep(0.2)


def main() -> None:
    """Serve until SIGTERM."""
    configure_logging(log_format="json", level="info")
    settings = Settings()
    card = SimulatedCard(total_mib=TOTAL_MIB, reserved_mib=380, name="Simulated 24 GB card")
    others = Path(os.environ["OTHERS_FILE"])
    card.hold(_OTHERS, lambda _seconds: int(others.read_text() or 0))
    threading.Thread(target=_follow, args=(settings.comfyui_urls[0], card), daemon=True).start()
    uvicorn.run(
        create_app(settings, gateway=Gateway(settings, cards=[card])),
        host=settings.host,
        port=settings.port,
        log_config=None,
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
