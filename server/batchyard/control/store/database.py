"""The database: one engine, short transactions, and the threads that run them.

Writes go through one thread: a database has one writer at a time anyway, and a queue in memory waits more cheaply than
a lock in the database. Reads run beside them on a snapshot of their own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DatabaseError, DBAPIError, OperationalError

from batchyard.control.store.full import check_full
from batchyard.control.store.migrations import SchemaError, upgrade
from batchyard.control.store.postgresql import Postgresql
from batchyard.control.store.sqlite import Sqlite
from batchyard.endpoint.errors import UnavailableError

T = TypeVar("T")

READERS = 4
ASK_SECONDS = 0.2
"""How often a server that came back is asked what became of a transaction."""


class DatabaseUnreachableError(Exception):
    """The database's server does not answer, or lets us not in; the message has its words."""


class DatabaseAwayError(UnavailableError):
    """The database's server does not answer, or broke the connection off. Nothing was stored."""


class Kind(Protocol):
    """What databases differ in: sqlite.py and postgresql.py."""

    engine: Engine
    read: ClassVar[Mapping[str, Any]]
    write: ClassVar[Mapping[str, Any]]

    def number(self, connection: Connection) -> str | None: ...  # noqa: D102 - see postgresql.py
    def away(self, error: DBAPIError) -> bool: ...  # noqa: D102
    def committed(self, number: str) -> bool | None: ...  # noqa: D102


class Database:
    """A migrated database, asked from an event loop."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._writer = ThreadPoolExecutor(1, "store-write")
        self._readers = ThreadPoolExecutor(READERS, "store-read")
        self._closing = threading.Event()

    @classmethod
    def open(cls, where: Path | str) -> Self:
        """Opens an SQLite file, or the PostgreSQL database at a URL, creating or migrating the tables first. Blocks.
        Raises SchemaError for what is no database of ours, DatabaseUnreachableError.
        """
        kind: Kind = Sqlite(where, READERS + 1) if isinstance(where, Path) else Postgresql(where, READERS + 1)
        opened = cls(kind)
        try:
            opened._transact(opened._kind.write, upgrade)
        except (OperationalError, DatabaseAwayError) as error:
            opened.close()
            words = error.orig if isinstance(error, OperationalError) else error
            raise DatabaseUnreachableError(f"the database {where} cannot be opened: {words}") from error
        except DatabaseError as error:
            opened.close()
            raise SchemaError(
                f"the database {where} cannot be used: {error.orig}: put a back-up in its place, or choose another "
                "data folder"
            ) from error
        except BaseException:
            opened.close()
            raise
        return opened

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` in a thread, in a transaction that sees one state of the database. Raises DatabaseAwayError."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._transact, self._kind.read, work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` in the writing thread, in a transaction that commits unless it raises. Raises StorageFullError,
        DatabaseAwayError.
        """
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._transact, self._kind.write, work)

    def _transact(self, options: Mapping[str, Any], work: Callable[[Connection], T]) -> T:
        number, results = None, []
        try:
            with self._kind.engine.connect().execution_options(**options) as connection, connection.begin():
                number = self._kind.number(connection)
                results.append(work(connection))
            return results[0]
        except DBAPIError as error:
            check_full(error.orig)
            if not self._kind.away(error):
                raise
            if results and number is not None and self._has_committed(number):
                return results[0]
            said = f"the database's server does not answer, and nothing was stored: {str(error.orig).strip()}"
            raise DatabaseAwayError(said, reason="DATABASE_AWAY") from error

    def _has_committed(self, number: str) -> bool:
        """Waits for the server to come back and say it: neither answer may be guessed."""
        while (committed := self._kind.committed(number)) is None:
            if self._closing.wait(ASK_SECONDS):
                return False  # this process ends; the next one reads what there is
        return committed

    def close(self) -> None:
        """Waits for what is under way and closes every connection. Blocks."""
        self._closing.set()
        self._writer.shutdown()
        self._readers.shutdown()
        self._kind.engine.dispose()
