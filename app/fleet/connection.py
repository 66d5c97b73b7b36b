"""Asynchronous connections to the database, for what does not fit into a transaction."""

from __future__ import annotations

from psycopg import AsyncConnection
from sqlalchemy.engine import make_url

CONNECT_SECONDS = 10


def conninfo(url: str) -> str:
    """The address as psycopg takes it, from SQLAlchemy's."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


async def connect(url: str) -> AsyncConnection:
    """Connect, each statement a transaction of its own.

    Raises:
        psycopg.OperationalError: The server cannot be reached.
    """
    return await AsyncConnection.connect(
        conninfo(url),
        autocommit=True,
        connect_timeout=CONNECT_SECONDS,
        application_name="steadydancer",
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=4,
    )
