"""Bringing a database to this version's schema, by the migrations and by nothing else."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy.engine import Engine

from app.errors import StoreUnavailable


def configuration(migrations: Path, engine: Engine | None = None) -> Config:
    """Alembic's configuration for a folder of migrations, without an ini file."""
    config = Config()
    config.set_main_option("script_location", str(migrations))
    if engine is not None:
        config.attributes["engine"] = engine
    return config


def upgrade(engine: Engine, migrations: Path) -> tuple[str | None, str | None]:
    """Upgrade an older database, leave a current one alone, refuse a newer one.

    Returns:
        The revision before and after.

    Raises:
        StoreUnavailable: The database was made by a newer version of the gateway.
    """
    config = configuration(migrations, engine)
    script = ScriptDirectory.from_config(config)
    head = script.get_current_head()
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current == head:
        return current, head
    if current is not None:
        try:
            script.get_revision(current)
        except CommandError as error:
            raise StoreUnavailable(
                f"The database has schema {current}, which this version does not know: a newer "
                "gateway made it. Start that version, or restore a backup from before the upgrade."
            ) from error
    command.upgrade(config, "head")
    return current, head
