"""Alembic's entry: runs migrations on the connection that `upgrade` handed over."""

from __future__ import annotations

from alembic import context

from batchyard.control.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite cannot alter columns: tables are rebuilt
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
