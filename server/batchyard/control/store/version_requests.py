"""Which request made which version: rows to values and back. Every function runs inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert, select

from batchyard.control.records import ModelVersion
from batchyard.control.store import models
from batchyard.control.store.schema import version_requests


def find(connection: Connection, request_id: str) -> tuple[Mapping[str, Any], ModelVersion] | None:
    """What the request asked for, and the version that it made."""
    row = connection.execute(select(version_requests).where(version_requests.c.id == request_id)).one_or_none()
    version = None if row is None else models.find_version(connection, row.model, row.version)
    return None if row is None or version is None else (row.asked, version)


def add(connection: Connection, request_id: str, asked: Mapping[str, Any], version: ModelVersion) -> None:
    """Remembers it."""
    values = {"id": request_id, "asked": dict(asked), "model": version.model, "version": version.number}
    connection.execute(insert(version_requests).values(values))
