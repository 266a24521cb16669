"""Who waits for what: positions that only grow, and tasks that wait until one has grown past what they know."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from batchyard.endpoint.errors import UnavailableError


class Notices:
    """Belongs to one event loop. A waiter costs one future while it waits and nothing after, however it ends."""

    def __init__(self) -> None:
        self._positions: dict[str, int] = {}
        self._waiting: dict[str, set[asyncio.Future[None]]] = defaultdict(set)
        self._closed = False

    def position(self, topic: str) -> int:
        """How far a topic has come since this process began; 0: nothing has happened."""
        return self._positions.get(topic, 0)

    def advance(self, topic: str, position: int) -> None:
        """The topic has come to `position`; wakes everyone who waits for it."""
        self._positions[topic] = max(position, self.position(topic))
        for future in self._waiting.pop(topic, ()):
            if not future.done():
                future.set_result(None)

    async def wait(self, topic: str, beyond: int) -> None:
        """Returns once the topic has come beyond `beyond`. Raises UnavailableError at shutdown."""
        while self.position(topic) <= beyond:
            if self._closed:
                raise shutting_down()
            future = asyncio.get_running_loop().create_future()
            self._waiting[topic].add(future)
            try:
                await future
            finally:
                self._forget(topic, future)

    def waiting(self) -> int:
        """How many tasks wait."""
        return sum(map(len, self._waiting.values()))

    def close(self) -> None:
        """Ends every wait, now and from now on, with UnavailableError."""
        self._closed = True
        for future in [future for waiting in self._waiting.values() for future in waiting]:
            if not future.done():
                future.set_exception(shutting_down())

    def _forget(self, topic: str, future: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(topic)
        if waiting is not None:
            waiting.discard(future)
            if not waiting:
                del self._waiting[topic]


def shutting_down() -> UnavailableError:
    """What every call is told while the service stops."""
    return UnavailableError(
        "the service is shutting down: connect again when it is back; a watch resumes from its last cursor",
        reason="SHUTTING_DOWN",
    )
