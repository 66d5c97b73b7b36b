"""Alembic's entry: runs the migrations on the engine that the gateway passes in."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine
from sqlmodel import SQLModel

import app.access.tables
import app.fleet.tables
import app.gpu.tables
import app.jobs.tables
import app.media.tables
import app.webhooks.tables  # noqa: F401 - imported so that every table is known

engine = context.config.attributes.get("engine")
if engine is None:
    engine = create_engine(context.config.get_main_option("sqlalchemy.url") or "sqlite://")

with engine.connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=SQLModel.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
    )
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            # Of several processes that start at once one migrates, and the others wait for it: then
            # they find nothing to do. A large table may take longer than any statement else may.
            for bound in (
                "lock_timeout",
                "statement_timeout",
                "idle_in_transaction_session_timeout",
            ):
                connection.exec_driver_sql(f"SET LOCAL {bound} = 0")
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7356291, 0)")
        context.run_migrations()
    connection.commit()
