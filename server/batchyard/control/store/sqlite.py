"""SQLite as the database: a file in WAL mode."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DBAPIError

BUSY_MILLISECONDS = 5000


class Sqlite:
    """A file, made if it is not there, with WAL, foreign keys and a busy timeout."""

    read: ClassVar[Mapping[str, Any]] = {"sqlite_begin": "DEFERRED"}
    """Execution options of a transaction that sees one state of the database."""
    write: ClassVar[Mapping[str, Any]] = {"sqlite_begin": "IMMEDIATE"}
    """Execution options of a transaction that has the database to itself, but for those that read."""

    def __init__(self, file: Path, connections: int) -> None:
        self.engine = create_engine(f"sqlite:///{file}", pool_size=connections)
        event.listen(self.engine, "connect", _prepare)
        event.listen(self.engine, "begin", _begin)

    def number(self, connection: Connection) -> None:
        """Transactions have none, and need none: who commits to a file knows whether it has."""

    def away(self, error: DBAPIError) -> bool:
        """Whether the error means that no database answers: a file always does."""
        return False

    def committed(self, number: str) -> bool | None:
        """Never asked, for there are no numbers."""
        raise AssertionError(number)


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
