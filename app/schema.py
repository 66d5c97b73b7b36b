"""Bringing a database to this version's schema, by the migrations and by nothing else.

Alembic is imported only when there is something to migrate: a start with a current database, which
is nearly every start, does without its time and memory.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from app.errors import StoreUnavailable


def revisions(migrations: Path) -> list[str]:
    """The revisions there are, oldest first: each file is named `REVISION_what.py`."""
    return sorted(path.name.split("_")[0] for path in (migrations / "versions").glob("*_*.py"))


def current_revision(engine: Engine) -> str | None:
    """The revision a database is at; None for an empty one."""
    if not sa.inspect(engine).has_table("alembic_version"):
        return None
    with engine.connect() as connection:
        found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return str(found) if found is not None else None


def upgrade(engine: Engine, migrations: Path) -> tuple[str | None, str]:
    """Upgrade an older database, leave a current one alone, refuse a newer one.

    Returns:
        The revision before and after.

    Raises:
        StoreUnavailable: The database was made by a newer version of the gateway.
    """
    known = revisions(migrations)
    current = current_revision(engine)
    if current == known[-1]:
        return current, current
    if current is not None and current not in known:
        raise StoreUnavailable(
            f"The database has schema {current}, which this version does not know: a newer "
            "gateway made it. Start that version, or restore a backup from before the upgrade."
        )
    from alembic import command  # noqa: PLC0415 - see the module's docstring
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(migrations))
    config.attributes["engine"] = engine
    command.upgrade(config, "head")
    return current, known[-1]
