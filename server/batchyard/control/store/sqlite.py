"""SQLite as the database: a file in WAL mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event

BUSY_MILLISECONDS = 5000

READ = {"sqlite_begin": "DEFERRED"}
"""Execution options of a transaction that sees one state of the database."""
WRITE = {"sqlite_begin": "IMMEDIATE"}
"""Execution options of a transaction that has the database to itself, but for those that read."""


def engine(file: Path, connections: int) -> Engine:
    """An engine on a file, made if it is not there, with WAL, foreign keys and a busy timeout."""
    made = create_engine(f"sqlite:///{file}", pool_size=connections)
    event.listen(made, "connect", _prepare)
    event.listen(made, "begin", _begin)
    return made


def _prepare(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver's own BEGIN comes too late for a snapshot or an immediate lock
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    # An acknowledged job must survive a power cut, not only a killed process: fsync each commit.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(f"BEGIN {connection.get_execution_options()['sqlite_begin']}")
