"""docs/configuration.md says what app/settings.py does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.cli import options
from app.client.transport import DEFAULT_URL
from app.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\| `([A-Z_]+)` \| (none|`[^`]*`) \| (.+) \|$")


def rows() -> Iterator[tuple[str, str, str]]:
    for line in (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            found = ROW.match(line)
            assert found, f"not a row of three columns: {line}"
            yield found.group(1), found.group(2).strip("`"), found.group(3)


def shown(value: Any) -> str:
    """A default as the page writes it."""
    if value is None or value == ():
        return "none"
    if isinstance(value, tuple):
        return " ".join(value)
    if isinstance(value, Path):
        return str(value.relative_to(ROOT)) if value.is_absolute() else str(value)
    return value if isinstance(value, str) else json.dumps(value)


DOCUMENTED = {name: default for name, default, _ in rows()}
DEFAULTS = {
    f"GATEWAY_{name.upper()}": shown(field.get_default(call_default_factory=True))
    for name, field in Settings.model_fields.items()
}


def test_every_setting_is_documented_and_nothing_else() -> None:
    ours = {name for name in DOCUMENTED if name.startswith("GATEWAY_")}
    assert ours == set(DEFAULTS)


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_the_documented_default_is_the_real_one(name: str) -> None:
    assert DOCUMENTED[name] == DEFAULTS[name]


def test_no_setting_is_documented_twice() -> None:
    names = [name for name, _, _ in rows()]
    assert sorted(names) == sorted(set(names))


def test_the_variables_of_the_command_line_are_documented() -> None:
    assert DOCUMENTED["STEADYDANCER_URL"] == options.DEFAULT_URL == DEFAULT_URL
    assert DOCUMENTED["STEADYDANCER_KEY"] == "none"


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md")))
def test_pages_name_no_setting_that_does_not_exist(page: Path) -> None:
    named = set(re.findall(r"\bGATEWAY_[A-Z_]*[A-Z]\b", page.read_text(encoding="utf-8")))
    others = {"GATEWAY_TEST_NO_SKIP", "GATEWAY_PYTHON"}  # of the tests, of the image's scripts
    known = set(DEFAULTS) | others
    assert named <= known


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md")))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []
