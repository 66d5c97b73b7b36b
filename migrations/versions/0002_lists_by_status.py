"""Lists by status, in the order of their pages

Revision: 0002
Follows: 0001
"""

from __future__ import annotations

from alembic import op


revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_job_status", "job", ["status", "id"])
    op.create_index("ix_job_owner_status", "job", ["owner", "status", "id"])


def downgrade() -> None:
    op.drop_index("ix_job_owner_status", "job")
    op.drop_index("ix_job_status", "job")
