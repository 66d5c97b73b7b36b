"""Which card is meant: by index, by UUID, or by what CUDA would call device 0. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.gpu.card import CardUnreadable

_ADVICE = "Check `nvidia-smi -L`, GATEWAY_GPUS and CUDA_VISIBLE_DEVICES."
_LEADING_NUMBER = re.compile(r"\s*(\d+)")


@dataclass(frozen=True, slots=True)
class CardInfo:
    """A card, or a MIG device of one, that this process may see.

    Attributes:
        uuid: `GPU-…` or `MIG-…`.
        name: Product name.
        index: NVML's number of the card, as `nvidia-smi` shows it; a MIG device has its card's.
        bus_id: PCI bus id, such as `00000000:3B:00.0`.
        parent_uuid: The card of a MIG device; None for a whole card.
    """

    uuid: str
    name: str
    index: int
    bus_id: str
    parent_uuid: str | None = None

    @property
    def is_mig(self) -> bool:
        """Whether this is a part of a card."""
        return self.parent_uuid is not None


def pick(cards: Sequence[CardInfo], selector: str | None, environ: Mapping[str, str]) -> CardInfo:
    """The card that is meant.

    Args:
        cards: All cards, as `list_cards` gives them.
        selector: Index as `nvidia-smi` numbers the cards, UUID or the beginning of one; None for
            what CUDA would call device 0.
        environ: Where CUDA would look for `CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER`.

    Raises:
        CardUnreadable: No card, or more than one, is meant.
    """
    if not cards:
        raise CardUnreadable(
            "NVML sees no card.",
            advice="Give the container one (`--gpus all`), or set GATEWAY_ADMISSION=off.",
        )
    if not selector:
        visible = cuda_order(cards, environ)
        if not visible:
            raise CardUnreadable(
                f"CUDA_VISIBLE_DEVICES={environ.get('CUDA_VISIBLE_DEVICES')!r} leaves no card.",
                advice=_ADVICE,
            )
        return visible[0]
    wanted = selector.strip()
    if wanted.isdigit():
        found = [card for card in cards if card.index == int(wanted)]
    else:
        found = _by_uuid(cards, wanted)
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{card.index}: {card.uuid} ({card.name})" for card in found or cards)
    problem = f"{len(found)} devices answer" if found else "No card answers"
    raise CardUnreadable(f"{problem} to {selector!r}. There is: {listed}.", advice=_ADVICE)


def plan(
    cards: Sequence[CardInfo], selectors: Sequence[str], engines: int, environ: Mapping[str, str]
) -> tuple[CardInfo, ...]:
    """The card of each engine.

    Args:
        cards: All cards, as `list_cards` gives them.
        selectors: One for each engine, as `pick` takes them; empty for the cards that CUDA sees,
            one for each engine in CUDA's own order.
        engines: How many engines there are.
        environ: Where CUDA would look for `CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER`.

    Raises:
        CardUnreadable: There is no card, or not one for each engine.
    """
    if selectors and len(selectors) != engines:
        raise CardUnreadable(
            f"GATEWAY_GPUS names {len(selectors)} GPUs and GATEWAY_COMFYUI_URLS {engines} engines.",
            advice="Name one GPU for each engine, in the same order.",
        )
    if selectors:
        found = tuple(pick(cards, selector, environ) for selector in selectors)
    elif engines == 1:
        found = (pick(cards, None, environ),)
    else:
        found = cuda_order(cards, environ)[:engines]
    if len(found) < engines:
        raise CardUnreadable(
            f"GATEWAY_COMFYUI_URLS names {engines} engines; CUDA sees {len(found)} cards.",
            advice=f"Name as many engines as cards, or the cards in GATEWAY_GPUS. {_ADVICE}",
        )
    for number, card in enumerate(found):
        if card in found[:number]:
            raise CardUnreadable(
                f"Engines {found.index(card)} and {number} would share {card.name} ({card.uuid}): "
                "each would count the same memory as its room.",
                advice="Name another card for each engine in GATEWAY_GPUS.",
            )
    return found


def cuda_order(cards: Sequence[CardInfo], environ: Mapping[str, str]) -> tuple[CardInfo, ...]:
    """The cards that a CUDA program in this environment sees, in its own numbering.

    The rules are CUDA's (programming guide, "CUDA Environment Variables", and what PyTorch's
    `torch.cuda._parse_visible_devices` found out): tokens are indices in CUDA's order, or UUIDs
    that may be shortened as long as they stay unique; what follows the first token that is neither
    is invisible; one that is named twice hides all. CUDA gives a program one MIG device at most.

    Raises:
        CardUnreadable: CUDA would sort cards of different models by its own idea of speed, which
            NVML does not tell.
    """
    text = environ.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        ordered = _cuda_numbers(cards, environ)
        return ordered[:1] if ordered and ordered[0].is_mig else ordered
    found: list[CardInfo] = []
    for token in text.split(","):
        card = _visible(cards, token.strip(), environ)
        if card is None:
            break
        if card in found:
            return ()
        found.append(card)
        if card.is_mig:
            break
    return tuple(found)


def _visible(cards: Sequence[CardInfo], token: str, environ: Mapping[str, str]) -> CardInfo | None:
    if token.startswith(("GPU-", "MIG-")):
        found = _by_uuid(cards, token)
        return found[0] if len(found) == 1 else None
    number = _LEADING_NUMBER.match(token)
    if number is None:
        return None
    ordered = _cuda_numbers(cards, environ)
    index = int(number[1])
    return ordered[index] if index < len(ordered) else None


def _cuda_numbers(cards: Sequence[CardInfo], environ: Mapping[str, str]) -> tuple[CardInfo, ...]:
    by_bus = tuple(sorted(cards, key=lambda card: card.bus_id.upper()))
    fastest_first = environ.get("CUDA_DEVICE_ORDER", "FASTEST_FIRST") != "PCI_BUS_ID"
    # Among equals CUDA keeps the order of the bus; which of two models it calls faster is not
    # documented, and to guess wrong is to start a job on a card that was never looked at.
    if fastest_first and len({_model(card) for card in cards}) > 1:
        listed = ", ".join(f"{card.uuid} ({card.name})" for card in by_bus)
        raise CardUnreadable(
            f"There are cards of different models ({listed}), and CUDA numbers them by speed.",
            advice=(
                "Name the card by UUID in GATEWAY_GPUS, or set CUDA_DEVICE_ORDER=PCI_BUS_ID for "
                "the gateway and ComfyUI."
            ),
        )
    return by_bus


def _by_uuid(cards: Sequence[CardInfo], beginning: str) -> list[CardInfo]:
    """Cards whose UUID begins so; of a card in MIG mode, its devices."""
    wanted = beginning.lower()
    exact = [card for card in cards if card.uuid.lower() == wanted]
    if exact:
        return exact
    return [
        card
        for card in cards
        if card.uuid.lower().startswith(wanted)
        or (card.parent_uuid is not None and card.parent_uuid.lower().startswith(wanted))
    ]


def _model(card: CardInfo) -> str:
    """The product; a MIG device is called `NVIDIA A100-SXM4-40GB MIG 1g.5gb`."""
    return card.name.partition(" MIG ")[0]
