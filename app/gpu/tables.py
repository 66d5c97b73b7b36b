"""The rows that the gateway learns memory needs from. `estimate.py` is their only writer."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

SampleSource = Literal["process", "device"]
"""`process`: ComfyUI's own memory by pid. `device`: the change of the card's used memory."""


class VramSample(SQLModel, table=True):
    """The peak memory of ComfyUI's whole process during one attempt."""

    __tablename__ = "vram_sample"
    __table_args__ = (
        sa.CheckConstraint("peak_mib > 0", name="ck_vram_sample_peak"),
        sa.CheckConstraint("source IN ('process', 'device')", name="ck_vram_sample_source"),
        sa.Index(
            "ix_vram_sample_shape",
            "workflow",
            "variant",
            "width",
            "height",
            "frames",
            "card",
            "id",
        ),
    )

    id: int | None = Field(default=None, primary_key=True)
    workflow: str
    variant: str
    width: int
    height: int
    frames: int
    card: str = Field(description="Product name: what was learned holds for all cards of a kind")
    card_mib: int = Field(description="What processes could have on that card at most")
    peak_mib: int
    oom: bool = Field(
        default=False, description="It ran out of memory: it needs more than the peak"
    )
    source: str = Field(default="process", description="process or device")
    attempt_id: str | None = Field(default=None, description="None for an imported row")
    at: datetime
