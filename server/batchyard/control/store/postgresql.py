"""PostgreSQL as the database, for a control plane whose disk is not to be trusted with what must not be lost.

One writer at a time, as in SQLite: every transaction that writes takes one lock of the database first, so that what it
has looked at (the lease above all) still holds when it commits, whoever else is connected.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import urlsplit

from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.exc import DBAPIError, OperationalError

SCHEMES = ("postgresql", "postgres")
WRITER_LOCK = 0x6279  # any number will do, as long as it stays the same
CONNECT_SECONDS = 10


class DatabaseUrlError(ValueError):
    """The URL cannot name a database for us; the message says why, what is expected, and what to do."""


def check_url(url: str) -> None:
    """Raises DatabaseUrlError for what is not postgresql://[USER@]HOST[:PORT]/NAME, or has a password in it."""
    expected = "expected postgresql://[USER@]HOST[:PORT]/NAME"
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or not parts.path.strip("/"):
        raise DatabaseUrlError(f"{re.sub(r':[^:@/]*@', ':...@', url)!r} given; {expected}")
    if parts.password is not None:
        given = f"{parts.scheme}://{parts.username}:...@{parts.hostname}"
        advice = "everyone on this machine can read a command line: leave it out, and use a password file ($PGPASSFILE)"
        raise DatabaseUrlError(f"{given} given, with a password; {expected}. {advice}")
    if importlib.util.find_spec("psycopg") is None:
        raise DatabaseUrlError(f"{url} given; psycopg is not installed: pip install 'batchyard[postgresql]'")


class Postgresql:
    """The database at a URL that check_url accepts."""

    read: ClassVar[Mapping[str, Any]] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    """Execution options of a transaction that sees one state of the database."""
    write: ClassVar[Mapping[str, Any]] = {"isolation_level": "READ COMMITTED", "batchyard_writes": True}
    """Execution options of a transaction that has the database to itself, but for those that read."""

    def __init__(self, url: str, connections: int) -> None:
        address = f"postgresql+psycopg:{url.partition(':')[2]}"
        options: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS, "application_name": "batchyard"}
        # A connection that a restart of the server broke is noticed before it is used.
        self.engine = create_engine(address, pool_size=connections, pool_pre_ping=True, connect_args=options)
        event.listen(self.engine, "connect", _prepare)
        event.listen(self.engine, "begin", _begin)

    def number(self, connection: Connection) -> str | None:
        """By which the server knows the connection's transaction; None for one that only reads."""
        if not connection.get_execution_options().get("batchyard_writes"):
            return None
        return str(connection.execute(text("SELECT pg_current_xact_id()")).scalar_one())

    def away(self, error: DBAPIError) -> bool:
        """Whether the error means that no server answers, or that it broke the connection off."""
        return error.connection_invalidated or (isinstance(error, OperationalError) and error.statement is None)

    def committed(self, number: str) -> bool | None:
        """What became of a transaction whose connection broke while it committed; None: the server cannot say yet."""
        try:
            with self.engine.connect() as connection:
                ask = text("SELECT pg_xact_status(CAST(CAST(:number AS text) AS xid8))")
                status = connection.execute(ask, {"number": number}).scalar_one()
        except DBAPIError:
            return None
        return {"committed": True, "aborted": False}.get(status)


def _prepare(connection: Any, _record: object) -> None:
    from psycopg.types.string import StrDumper

    class WithoutNul(StrDumper):
        """PostgreSQL stores no NUL; the message of a user's exception may have one, and must not stop a job's end."""

        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\N{REPLACEMENT CHARACTER}"))

    connection.adapters.register_dumper(str, WithoutNul)


def _begin(connection: Connection) -> None:
    if connection.get_execution_options().get("batchyard_writes"):
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": WRITER_LOCK})
