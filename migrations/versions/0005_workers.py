"""Workers, and procrastinate's own tables where the store is on PostgreSQL

Revision: 0005
Follows: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
import sqlmodel
from alembic import op


revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "worker",
        sa.Column("name", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("identity", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("incarnation", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("version", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("engines", sa.JSON(), nullable=False),
        sa.Column("states", sa.JSON(), nullable=False),
        sa.Column("draining", sa.Boolean(), nullable=False),
        sa.Column("started_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.Column("heartbeat_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    if op.get_bind().dialect.name != "postgresql":
        return
    from procrastinate.schema import SchemaManager

    # The driver's own connection: the text has percent signs, which are nobody's parameters.
    op.get_bind().connection.driver_connection.execute(SchemaManager.get_schema())


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        tables = ("events", "periodic_defers", "jobs", "workers")
        for name in tables:
            op.execute(f"DROP TABLE IF EXISTS procrastinate_{name} CASCADE")
        op.execute(
            """
            DO $$ DECLARE named regprocedure; BEGIN
              FOR named IN SELECT oid::regprocedure FROM pg_proc
                WHERE proname LIKE 'procrastinate\\_%' LOOP
                EXECUTE 'DROP FUNCTION ' || named || ' CASCADE';
              END LOOP;
            END $$
            """
        )
        for name in ("job_to_defer_v1", "job_status", "job_event_type"):
            op.execute(f"DROP TYPE IF EXISTS procrastinate_{name} CASCADE")
    op.drop_table("worker")
