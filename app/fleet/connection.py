"""Asynchronous connections to the database, for what does not fit into a transaction."""

from __future__ import annotations

from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo
from sqlalchemy.engine import make_url

from app.postgres import KEEPALIVE

CONNECT_SECONDS = 10


def conninfo(url: str) -> str:
    """The address as psycopg takes it, from SQLAlchemy's, with the bounds of every connection."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return make_conninfo(
        plain, connect_timeout=CONNECT_SECONDS, application_name="steadydancer", **KEEPALIVE
    )


async def connect(url: str) -> AsyncConnection:
    """Connect, each statement a transaction of its own.

    Raises:
        psycopg.OperationalError: The server cannot be reached.
    """
    return await AsyncConnection.connect(conninfo(url), autocommit=True)
