"""Who created a job, and to whom an attempt gave way."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the columns; jobs that are there are nobody's, and gave way to nobody."""
    op.add_column("jobs", sa.Column("user", sa.String(64), nullable=False, server_default=""))
    op.add_column("attempts", sa.Column("preempted_by", sa.String(64)))
