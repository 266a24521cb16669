"""Brings a database to this version's schema, from inside the program, at start.

A new migration: write versions/NNNN_what.py by hand after the ones that are there; tests/control compares the result
with schema.py.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection


class SchemaError(Exception):
    """The database is of a schema that this version does not know."""


def upgrade(connection: Connection) -> None:
    """Runs every missing migration inside the connection's transaction. Raises SchemaError."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    current = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise SchemaError(
            f"the database is at schema {current}; this version knows {', '.join(sorted(known))}: the database was "
            "written by a newer version; run that one, or choose another data folder"
        )
    command.upgrade(config, "head")
