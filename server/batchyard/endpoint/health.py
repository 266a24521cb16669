"""grpc.health.v1: whether each service answers.

grpcio's own asyncio servicer is not used: when one watcher of a service leaves it forgets the others, who then hear of
no change any more; it writes to watchers under the lock that a change needs, so that one that reads slowly holds up
everybody; and it keeps watchers until the server's grace is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse as Response

from batchyard.endpoint.errors import NotFoundError

SHOWN_CHARACTERS = 40


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # grpcio-health-checking has no types
    """Answers Check and Watch. Belongs to one event loop; every service is NOT_SERVING until set says otherwise."""

    def __init__(self, names: tuple[str, ...]) -> None:
        """`names`: the services; the server as a whole, "", is added."""
        self._states = dict.fromkeys(("", *names), Response.NOT_SERVING)
        self._changed = asyncio.Event()
        self._closed = False

    async def set(self, serving: bool, service: str | None = None) -> None:
        """Sets one service, or all of them and the server as a whole (""). Waits for no watcher."""
        state = Response.SERVING if serving and not self._closed else Response.NOT_SERVING
        for name in self._states if service is None else (service,):
            self._states[name] = state
        self._tell()

    async def close(self) -> None:
        """NOT_SERVING for good: watchers are told and their streams end, so that the server can stop at once."""
        self._closed = True
        await self.set(False)

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> Response:  # noqa: N802
        """The state of one service. Raises NotFoundError for one that is not here."""
        state = self._states.get(request.service)
        if state is None:
            known = ", ".join(sorted(self._states)).removeprefix(", ")
            raise NotFoundError(
                f"no service {request.service[:SHOWN_CHARACTERS]!a} here; services: {known}", reason="UNKNOWN_SERVICE"
            )
        return Response(status=state)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> AsyncIterator[Response]:  # noqa: N802
        """The state now and after each change; SERVICE_UNKNOWN, as the protocol has it, for one that is not here.

        A watcher that reads slowly misses states in between, never the last one.
        """
        told = None
        while True:
            changed = self._changed
            state = self._states.get(request.service, Response.SERVICE_UNKNOWN)
            if state != told:
                told = state
                yield Response(status=state)
                continue  # there may have been a change while it was written
            if self._closed:
                return
            await changed.wait()

    def _tell(self) -> None:
        """Wakes every watcher. Each waits for an event that is never cleared: none can sleep through a change."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
