"""The schema comes from the migrations, and from nowhere else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlmodel import SQLModel

from app.database import Database
from app.errors import StoreUnavailable
from app.schema import current_revision, revisions, upgrade

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"


def test_the_last_revision_is_the_one_that_alembic_calls_head() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert revisions(MIGRATIONS)[-1] == ScriptDirectory.from_config(config).get_current_head()


@pytest.mark.filterwarnings("ignore:autogenerate skipping metadata-specified expression-based")
def test_the_migrations_make_exactly_the_tables_that_the_code_uses(migrated: Path) -> None:
    database = Database(f"sqlite:///{migrated}")
    with database.engine.connect() as connection:
        # Alembic cannot compare an index over an expression; the one there is, is looked at below.
        options = {
            "compare_type": True,
            "include_name": lambda name, _kind, _parents: name != "ix_job_queue",
            "include_object": lambda _what, name, *_: name != "ix_job_queue",
        }
        context = MigrationContext.configure(connection, opts=options)
        differences = compare_metadata(context, SQLModel.metadata)
        indexes = sa.inspect(connection).get_indexes("job")
        raw = connection.execute(
            sa.text("SELECT sql FROM sqlite_master WHERE name = 'ix_job_queue'")
        ).scalar()
    database.close()
    assert differences == []
    assert indexes
    assert raw is not None and "priority DESC" in raw  # noqa: PT018 - one thought


def test_a_database_of_a_newer_gateway_is_refused_and_left_alone(
    migrated: Path, tmp_path: Path
) -> None:
    path = tmp_path / "newer.db"
    shutil.copy(migrated, path)
    database = Database(f"sqlite:///{path}")
    with database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreUnavailable, match="newer"):
        upgrade(database.engine, MIGRATIONS)
    assert current_revision(database.engine) == "9999"
    database.close()
