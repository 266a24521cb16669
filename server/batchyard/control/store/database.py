"""The database: one engine, short transactions, and the threads that run them.

Writes go through one thread: SQLite has one writer at a time anyway, and a queue in memory waits more cheaply than a
lock on disk. Reads run beside them on a snapshot of their own (WAL).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from batchyard.control.store.full import check_full
from batchyard.control.store.migrations import upgrade

T = TypeVar("T")

READERS = 4
BUSY_MILLISECONDS = 5000


class Database:
    """A migrated database, asked from an event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writer = ThreadPoolExecutor(1, "store-write")
        self._readers = ThreadPoolExecutor(READERS, "store-read")

    @classmethod
    def open(cls, file: Path) -> Database:
        """Opens the SQLite file, creating or migrating it first. Blocks. Raises SchemaError."""
        engine = sqlite_engine(file)
        with engine.connect().execution_options(sqlite_begin="IMMEDIATE") as connection, connection.begin():
            upgrade(connection)
        return cls(engine)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` in a thread, in a transaction that sees one state of the database."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._transact, "DEFERRED", work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` in the writing thread, in a transaction that commits unless it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._transact, "IMMEDIATE", work)

    def _transact(self, begin: str, work: Callable[[Connection], T]) -> T:
        try:
            with self._engine.connect().execution_options(sqlite_begin=begin) as connection, connection.begin():
                return work(connection)
        except DBAPIError as error:
            check_full(error.orig)
            raise

    def close(self) -> None:
        """Waits for what is under way and closes every connection. Blocks."""
        self._writer.shutdown()
        self._readers.shutdown()
        self._engine.dispose()


def sqlite_engine(file: Path) -> Engine:
    """An engine on an SQLite file with WAL, foreign keys and a busy timeout."""
    engine = create_engine(f"sqlite:///{file}", pool_size=READERS + 1)
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


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
    connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('sqlite_begin', 'DEFERRED')}")
