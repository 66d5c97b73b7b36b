"""The processes that the gateway starts and watches: the engines, and the reverse proxy."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from app.comfy import supervisor
from app.comfy.client import ComfyClient, EngineError
from app.comfy.supervisor import Supervisor
from app.gpu.card import Card
from app.gpu.nvml import NvmlCard
from app.settings import Settings


def engine_process(
    settings: Settings,
    number: int,
    url: str,
    *,
    client: ComfyClient,
    card: Card | None,
    on_change: Callable[[], None],
) -> Supervisor | None:
    """The supervisor of one engine; None where somebody else starts it.

    Args:
        settings: What the operator decided.
        number: Its place among the engines.
        url: Where it is to answer.
        client: Asks whether it does.
        card: The one that it is to see.
        on_change: Called when its process comes or goes.
    """
    if not settings.comfyui_command:
        return None

    async def answers() -> bool:
        try:
            await client.system_stats()
        except EngineError:
            return False
        return True

    where = urlsplit(url)
    host, port = where.hostname or "127.0.0.1", where.port or 8188
    words = {"host": host, "port": str(port)}
    environ = supervisor.clean_environment()
    if isinstance(card, NvmlCard):
        environ["CUDA_VISIBLE_DEVICES"] = card.uuid
    return Supervisor(
        name=f"engine-{number}",
        command=[_filled(word, words) for word in settings.comfyui_command],
        directory=settings.data_dir / "engines",
        is_healthy=answers,
        address=(host, port),
        environ=environ,
        patience=supervisor.Patience(
            start=settings.engine_start_seconds,
            stop=settings.stop_seconds,
            silent=settings.engine_silent_seconds,
        ),
        on_change=on_change,
    )


def reverse_proxy(settings: Settings) -> Supervisor | None:
    """The supervisor of the proxy in front of ComfyUI's page; None without one."""
    command = settings.proxy_command
    if not command:
        return None

    async def is_there() -> bool:
        return True

    return Supervisor(
        name="proxy",
        command=command,
        directory=settings.data_dir / "engines",
        is_healthy=is_there,
    )


def _filled(word: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(f"{{{name}}}", value)
    return word
