"""What stands out of long histories."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from batchyard.control.store import landmarks

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")
NOT_MEASURED = sa.text("kind NOT IN ('step_metrics', 'evaluation', 'layer_statistics')")


def upgrade() -> None:
    """Adds the table and fills it from the events that there are, and an index of those that are no measurements."""
    op.create_table(
        "landmarks",
        sa.Column("job_number", SERIAL, sa.ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True),
        sa.Column("level", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(24), nullable=False),
        sa.Column("value", sa.Double),
    )
    op.create_index(
        "ix_events_told", "events", ["job_number", "kind", "sequence"],
        sqlite_where=NOT_MEASURED, postgresql_where=NOT_MEASURED,
    )  # fmt: skip
    connection = op.get_bind()
    for number, last in connection.execute(sa.text("SELECT number, last_event FROM jobs")).all():
        landmarks.extend(connection, number, 0, last)
