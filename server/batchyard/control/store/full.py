"""A database that cannot write because its disk is full, or refuses."""

from __future__ import annotations

import sqlite3

from batchyard.endpoint.errors import UnavailableError

DISK_FULL = "53100"
"""PostgreSQL's SQLSTATE for it."""


class StorageFullError(UnavailableError):
    """Nothing was written. What was stored before is whole, and the same write succeeds once there is room."""


def check_full(error: BaseException | None) -> None:
    """Raises StorageFullError for a driver's error that means that."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        full = getattr(error, "sqlstate", None) == DISK_FULL
    else:
        full = code & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)  # the lowest byte is the kind
    if full:
        raise StorageFullError(
            f"the service cannot write to its database ({error}): its disk is full or fails. Make room there and try "
            "again; what is stored is whole, and what trains goes on",
            reason="STORAGE_FULL",
        ) from error
