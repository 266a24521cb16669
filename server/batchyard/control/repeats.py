"""Requests that may be repeated: a request_id stands for one request, and what it made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from batchyard.control.orders import differences, no_request_id
from batchyard.endpoint.errors import AlreadyExistsError, FieldViolation, InvalidInputError


@dataclass(frozen=True, kw_only=True)
class Request:
    """A call that makes something."""

    id: str
    """A UUID; empty: the caller does not repeat it."""
    asked: Mapping[str, Any]
    """All that the call says, JSON-ready, by the paths of its fields."""


def check_request_id(request_id: str, field: str = "request_id") -> None:
    """Raises InvalidInputError for what is neither a UUID nor empty."""
    if problem := no_request_id(request_id):
        raise InvalidInputError([FieldViolation(field, problem)])


def check_same(made: str, request: Request, earlier: Mapping[str, Any], root: str = "") -> None:
    """Raises AlreadyExistsError unless `earlier`, which has made the resource `made`, asked for the same.

    `root` comes before the paths of what was asked.
    """
    different = differences(earlier, request.asked)
    if not different:
        return
    said = {path: f"{_shown(was)} there, {_shown(now)} given" for path, was, now in different}
    listed = "; ".join(f"{path}: {both}" for path, both in said.items())
    raise AlreadyExistsError(
        f"request_id {request.id} has already created {made} from another request ({listed}): send a new request_id",
        reason="REQUEST_ID_REUSED",
        metadata={"name": made, "request_id": request.id, "fields": ",".join(said)},
        violations=[FieldViolation(root + path, both) for path, both in said.items()],
    )


class Turns:
    """Calls with the same request_id go one after the other, so that the second finds what the first has made."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def of(self, request_id: str) -> AsyncIterator[None]:
        """Waits for those before; not at all without an id."""
        if not request_id:
            yield
            return
        lock = self._locks.get(request_id)
        if lock is None:
            lock = self._locks[request_id] = asyncio.Lock()
        async with lock:
            yield


def _shown(value: object) -> str:
    return "nothing" if value is None else repr(value)
