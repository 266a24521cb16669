"""What people write about jobs: tags and notes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds both columns, empty."""
    for name in ("tags", "note"):
        op.add_column("jobs", sa.Column(name, sa.Text, nullable=False, server_default=""))
