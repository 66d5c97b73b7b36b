"""Media in object storage: where a blob's bytes lie, and the objects that no blob names

Revision: 0004
Follows: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
import sqlmodel
from alembic import op


revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("blob", sa.Column("object_key", sa.String(), nullable=True))
    op.create_table(
        "loose_object",
        sa.Column("key", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("touched_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("key"),
    )


def downgrade() -> None:
    op.drop_table("loose_object")
    op.drop_column("blob", "object_key")
