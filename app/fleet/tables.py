"""The machines that work on the queue."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, SQLModel


class Worker(SQLModel, table=True):
    """A worker and what it last said of itself. Its times are the database's."""

    __tablename__ = "worker"

    name: str = Field(primary_key=True)
    identity: str = Field(description="Of its data directory, which one process at a time holds")
    incarnation: str = Field(description="Of its process: who has lost the name cannot report")
    version: str
    engines: list[str] = Field(sa_type=sa.JSON, default_factory=list)
    states: list[Any] = Field(sa_type=sa.JSON, default_factory=list)
    draining: bool = Field(default=False, description="Asked to start no more jobs")
    started_at: datetime
    heartbeat_at: datetime
