"""The database: one engine, short transactions, and the threads that run them.

Writes go through one thread: a database has one writer at a time anyway, and a queue in memory waits more cheaply than
a lock in the database. Reads run beside them on a snapshot of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError

from batchyard.control.store import postgresql, sqlite
from batchyard.control.store.full import check_full
from batchyard.control.store.migrations import upgrade
from batchyard.endpoint.errors import UnavailableError

T = TypeVar("T")

READERS = 4


class DatabaseUnreachableError(Exception):
    """The database's server does not answer, or lets us not in; the message has its words."""


class Database:
    """A migrated database, asked from an event loop.

    Args:
        read, write: execution options of the two kinds of transactions.
    """

    def __init__(self, engine: Engine, read: Mapping[str, Any], write: Mapping[str, Any]) -> None:
        self._engine = engine
        self._read, self._write = read, write
        self._writer = ThreadPoolExecutor(1, "store-write")
        self._readers = ThreadPoolExecutor(READERS, "store-read")

    @classmethod
    def open(cls, where: Path | str) -> Self:
        """Opens an SQLite file, or the PostgreSQL database at a URL, creating or migrating the tables first. Blocks.
        Raises SchemaError, DatabaseUnreachableError.
        """
        if isinstance(where, Path):
            opened = cls(sqlite.engine(where, READERS + 1), sqlite.READ, sqlite.WRITE)
        else:
            opened = cls(postgresql.engine(where, READERS + 1), postgresql.READ, postgresql.WRITE)
        try:
            opened._transact(opened._write, upgrade)
        except OperationalError as error:
            opened.close()
            raise DatabaseUnreachableError(f"the database {where} cannot be opened: {error.orig}") from error
        except BaseException:
            opened.close()
            raise
        return opened

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` in a thread, in a transaction that sees one state of the database. Raises UnavailableError."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._transact, self._read, work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` in the writing thread, in a transaction that commits unless it raises. Raises UnavailableError,
        after which it may yet have committed.
        """
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._transact, self._write, work)

    def _transact(self, options: Mapping[str, Any], work: Callable[[Connection], T]) -> T:
        try:
            with self._engine.connect().execution_options(**options) as connection, connection.begin():
                return work(connection)
        except DBAPIError as error:
            check_full(error.orig)
            if not error.connection_invalidated:
                raise
            said = f"the database's server broke the connection: {str(error.orig).strip()}"
            raise UnavailableError(said, reason="DATABASE_UNAVAILABLE") from error

    def close(self) -> None:
        """Waits for what is under way and closes every connection. Blocks."""
        self._writer.shutdown()
        self._readers.shutdown()
        self._engine.dispose()
