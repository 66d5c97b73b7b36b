"""What axe-core finds wrong with a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playwright.async_api import Page

AXE = (Path(__file__).parent / "vendor" / "axe.js").read_text(encoding="utf-8")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
COLORS = ["color-contrast"]


async def faults(page: Page, rules: Sequence[str] = RULES) -> list[str]:
    """What axe-core finds wrong, by these rules or groups of rules."""
    await page.evaluate(AXE)
    found: dict[str, Any] = await page.evaluate(
        f"axe.run(document, {{runOnly: {json.dumps(rules)}, resultTypes: ['violations']}})"
    )
    return [
        f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:160]}"
        for one in found["violations"]
    ]
