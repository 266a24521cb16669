"""request_id for versions that no job publishes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the table; versions that are there were made without one."""
    op.create_table(
        "version_requests",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("asked", sa.JSON, nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.number"]),
    )
