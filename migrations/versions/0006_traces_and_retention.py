"""The trace of a job and of its webhooks; finished jobs by status

Revision: 0006
Follows: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op


revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("job", "webhook_message"):
        op.add_column(table, sa.Column("trace", sa.JSON(none_as_null=True), nullable=True))
    op.drop_index("ix_job_finished", "job")
    op.create_index("ix_job_ended", "job", ["status", "finished_at"])


def downgrade() -> None:
    op.drop_index("ix_job_ended", "job")
    op.create_index("ix_job_finished", "job", ["finished_at"])
    for table in ("job", "webhook_message"):
        op.drop_column(table, "trace")
