"""Jobs, their attempts and events; models, versions and aliases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")
STATES = "'QUEUED', 'STARTING', 'RUNNING', 'PAUSING', 'PAUSED', 'CANCELLING', 'SUCCEEDED', 'FAILED', 'CANCELLED'"


def upgrade() -> None:
    """Creates every table."""
    _jobs()
    _attempts_and_events()
    _models()


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("number", SERIAL, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(36)),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("workers", sa.Integer, nullable=False),
        sa.Column("gpus", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("failure_class", sa.String(16)),
        sa.Column("failure_cause", sa.Text),
        sa.Column("failure_next_step", sa.Text),
        sa.Column("progress", sa.JSON),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("model_version", sa.String(128)),
        sa.Column("create_time", sa.Double, nullable=False),
        sa.Column("start_time", sa.Double),
        sa.Column("first_step_time", sa.Double),
        sa.Column("end_time", sa.Double),
        sa.Column("last_event", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("id", name="uq_jobs_id"),
        sa.UniqueConstraint("request_id", name="uq_jobs_request_id"),
        sa.CheckConstraint(f"state IN ({STATES})", name="ck_jobs_state"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_jobs_state_number", "jobs", ["state", "number"])


def _attempts_and_events() -> None:
    op.create_table(
        "attempts",
        sa.Column("job_number", SERIAL, sa.ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("artifact_uri", sa.Text, nullable=False),
        sa.Column("cursor", sa.BigInteger, nullable=False),
        sa.Column("published_uri", sa.Text),
        sa.Column("published_sha256", sa.String(64)),
        sa.Column("start_time", sa.Double, nullable=False),
        sa.Column("end_time", sa.Double),
    )
    op.create_table(
        "events",
        sa.Column("job_number", SERIAL, sa.ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(24), nullable=False),
        sa.Column("payload", sa.JSON, nullable=False),
    )


def _models() -> None:
    op.create_table(
        "models",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("create_time", sa.Double, nullable=False),
        sa.Column("latest_version", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "versions",
        sa.Column("model", sa.String(64), sa.ForeignKey("models.name"), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("create_time", sa.Double, nullable=False),
        sa.Column("job", sa.String(64), nullable=False),
        sa.Column("artifact_uri", sa.Text, nullable=False),
        sa.Column("manifest_sha256", sa.String(64), nullable=False),
        sa.Column("manifest", sa.Text, nullable=False),
        sa.UniqueConstraint("artifact_uri", name="uq_versions_artifact_uri"),
    )
    op.create_table(
        "aliases",
        sa.Column("model", sa.String(64), primary_key=True),
        sa.Column("alias", sa.String(40), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.number"]),
    )
