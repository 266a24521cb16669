"""The tables. A change here needs a migration in migrations/versions; a test compares the two."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

# SQLite counts up by itself only in a column that is declared INTEGER PRIMARY KEY.
SERIAL = BigInteger().with_variant(Integer, "sqlite")
NOT_MEASURED = text("kind NOT IN ('step_metrics', 'evaluation', 'layer_statistics')")
STATES = "'QUEUED', 'STARTING', 'RUNNING', 'PAUSING', 'PAUSED', 'CANCELLING', 'SUCCEEDED', 'FAILED', 'CANCELLED'"

jobs = Table(
    "jobs",
    metadata,
    Column("number", SERIAL, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    # Who created it, as the client said; empty where nobody was named.
    Column("user", String(64), nullable=False, server_default=""),
    Column("request_id", String(36), unique=True),
    Column("spec", JSON, nullable=False),
    # What the spec asks of the cluster, so that admission reads no specs.
    Column("workers", Integer, nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("failure_class", String(16)),
    Column("failure_cause", Text),
    Column("failure_next_step", Text),
    Column("progress", JSON(none_as_null=True)),
    Column("attempt", Integer, nullable=False),
    Column("model_version", String(128)),
    Column("create_time", Double, nullable=False),
    Column("start_time", Double),
    Column("first_step_time", Double),
    Column("end_time", Double),
    Column("last_event", BigInteger, nullable=False),
    # What people have written about it: tags with a space before, between and behind them; a note.
    Column("tags", Text, nullable=False, server_default=""),
    Column("note", Text, nullable=False, server_default=""),
    CheckConstraint(f"state IN ({STATES})", name="state"),
    Index("ix_jobs_state_number", "state", "number"),
    sqlite_autoincrement=True,
)

attempts = Table(
    "attempts",
    metadata,
    Column("job_number", ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True),
    # Counted from 1: the fencing epoch.
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("artifact_uri", Text, nullable=False),
    # How many of the executor's events are stored.
    Column("cursor", BigInteger, nullable=False),
    # What the workers say they have published; the registry's row comes with the end of the attempt.
    Column("published_uri", Text),
    Column("published_sha256", String(64)),
    Column("start_time", Double, nullable=False),
    Column("end_time", Double),
    # Ended.outcome and Ended.failure_class, once it has ended.
    Column("outcome", String(16)),
    Column("failure_class", String(16)),
    # The checkpoint that it was told to go on from, and the step at which it did: 0 for the beginning.
    Column("resume_from", Text),
    Column("resumed_step", BigInteger),
    # The id of the job that it was told to give way to.
    Column("preempted_by", String(64)),
)

# What a job can go on from; a row is written when the checkpoint is durable and goes when the checkpoint does.
checkpoints = Table(
    "checkpoints",
    metadata,
    Column("job_number", ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    Column("attempt", Integer, nullable=False),
    Column("uri", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("time", Double, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("job_number", ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("time", Double, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("kind", String(24), nullable=False),
    Column("payload", JSON, nullable=False),
    # The sequence of the Resumed event that made it void: kept, and shown to nobody.
    Column("superseded_by", BigInteger),
    # For the log and the states of a job that has measured a million times.
    Index("ix_events_told", "job_number", "kind", "sequence", sqlite_where=NOT_MEASURED, postgresql_where=NOT_MEASURED),
)

# The measurements that stand out of a long history (landmarks.py).
landmarks = Table(
    "landmarks",
    metadata,
    Column("job_number", ForeignKey("jobs.number", ondelete="CASCADE"), primary_key=True),
    # Of blocks of landmarks.BASE ** level events.
    Column("level", Integer, primary_key=True, autoincrement=False),
    # Of the event.
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String(24), nullable=False),
    # By which it stands out; null: no finite number, or a kind that has none.
    Column("value", Double),
)

models = Table(
    "models",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("create_time", Double, nullable=False),
    Column("latest_version", BigInteger, nullable=False),
    Column("serving_settings", JSON, nullable=False, server_default="{}"),
)

versions = Table(
    "versions",
    metadata,
    Column("model", ForeignKey("models.name"), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("create_time", Double, nullable=False),
    # No foreign key: a version outlives the record of its job.
    Column("job", String(64), nullable=False),
    Column("artifact_uri", Text, nullable=False, unique=True),
    Column("manifest_sha256", String(64), nullable=False),
    Column("manifest", Text, nullable=False),
)

# What a request_id has asked for, and the version that came of it.
version_requests = Table(
    "version_requests",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("asked", JSON, nullable=False),
    Column("model", String(64), nullable=False),
    Column("version", BigInteger, nullable=False),
    ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.number"]),
)

aliases = Table(
    "aliases",
    metadata,
    Column("model", String(64), primary_key=True),
    Column("alias", String(40), primary_key=True),
    Column("version", BigInteger, nullable=False),
    ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.number"]),
)

# Which control plane may write: one row, named control.
leases = Table(
    "leases",
    metadata,
    Column("name", String(16), primary_key=True),
    # Counts the holders: every write carries its own.
    Column("epoch", BigInteger, nullable=False),
    # Counts up while the holder lives.
    Column("renewals", BigInteger, nullable=False),
    Column("released", Boolean, nullable=False),
    Column("place", Text, nullable=False),
    Column("host", String(255), nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("process", String(128), nullable=False),
    Column("since", Double, nullable=False),
)
