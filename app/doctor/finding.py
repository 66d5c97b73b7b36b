"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at and what was found.

    Attributes:
        name: What was looked at.
        status: `fail`: jobs cannot run, or something promised cannot be kept. `warn`: it works,
            but not as it should. `skip`: it could not, or need not, be looked at.
        detail: What was found.
        advice: What to do about it; empty where there is nothing to do.
    """

    name: str
    status: Status
    detail: str
    advice: str = ""
