"""How a model is served."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column; models that are there take every default."""
    op.add_column("models", sa.Column("serving_settings", sa.JSON, nullable=False, server_default="{}"))
