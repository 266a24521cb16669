"""Checkpoints, and attempts that go on from one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Adds the table and the columns; attempts and events that are there knew no checkpoints."""
    op.create_table(
        "checkpoints",
        sa.Column("job_number", SERIAL, sa.ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True),
        sa.Column("step", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("uri", sa.Text, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("time", sa.Double, nullable=False),
    )
    op.add_column("attempts", sa.Column("outcome", sa.String(16)))
    op.add_column("attempts", sa.Column("failure_class", sa.String(16)))
    op.add_column("attempts", sa.Column("resume_from", sa.Text))
    op.add_column("attempts", sa.Column("resumed_step", sa.BigInteger))
    op.add_column("events", sa.Column("superseded_by", sa.BigInteger))
