"""Requests that wait for an engine: in order of arrival, bounded in rows, gone as soon as caller or time is."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from batchyard.endpoint.errors import DeadlineError, OverloadedError
from batchyard.serving.tensors import Pixels

Scores = NDArray[np.float32]
LONGEST_RETRY_SECONDS = 5.0
SHORTEST_RETRY_SECONDS = 0.01


class Request:
    """A caller's rows, or a part of a large request's, and where the answer goes."""

    __slots__ = ("arrived", "count", "deadline", "future", "rows", "timer")

    def __init__(self, rows: Pixels, future: asyncio.Future[Scores], arrived: float, deadline: float | None) -> None:
        self.rows = rows
        self.count = len(rows)
        self.future = future
        self.arrived = arrived
        self.deadline = deadline
        self.timer: asyncio.TimerHandle | None = None


class RequestQueue:
    """Belongs to the event loop that makes it; so there are no locks. Times are the loop's, which never go back."""

    def __init__(self, model: str, max_rows: int) -> None:
        """`model` is for messages: the model and its version."""
        self._model = model
        self._max_rows = max_rows
        self._loop = asyncio.get_running_loop()
        # Ordered and quick to leave from the middle; a list would be slow to leave, a plain dict slow to take from.
        self._waiting: OrderedDict[int, Request] = OrderedDict()
        self.rows = 0
        """Rows that wait."""

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def check_room(self, count: int, deadline: float | None, seconds_per_row: float) -> None:
        """Raises OverloadedError if `count` more rows are too many, DeadlineError if the deadline is over already."""
        if deadline is not None and deadline <= self._loop.time():
            raise self._too_late()
        if self.rows + count > self._max_rows:
            seconds = min(max(self.rows * seconds_per_row, SHORTEST_RETRY_SECONDS), LONGEST_RETRY_SECONDS)
            raise OverloadedError(
                f"model {self._model}: {self.rows} rows wait and {count} more would exceed the queue's "
                f"{self._max_rows}; try again later or elsewhere",
                reason="QUEUE_FULL",
                retry_after=seconds,
                metadata={"model": self._model},
            )

    def add(self, rows: Pixels, deadline: float | None) -> Request:
        """Queues rows. When the deadline passes first, the request's future gets DeadlineError, by a timer."""
        request = Request(rows, self._loop.create_future(), self._loop.time(), deadline)
        self._waiting[id(request)] = request
        self.rows += request.count
        if deadline is not None:
            request.timer = self._loop.call_at(deadline, self._expire, request)
        return request

    def leave(self, request: Request) -> bool:
        """Takes a request out, wherever it stands. Whether it was still there."""
        if request.timer is not None:
            request.timer.cancel()
            request.timer = None
        if self._waiting.pop(id(request), None) is None:
            return False
        self.rows -= request.count
        return True

    def take(self, room: int) -> list[Request]:
        """The next requests in order, as many as fit into `room` rows; those whose time is over are told so instead."""
        taken: list[Request] = []
        now = self._loop.time()
        while self._waiting:
            request = next(iter(self._waiting.values()))
            if request.deadline is not None and request.deadline <= now:
                self._expire(request)
                continue
            if request.count > room:
                break
            self.leave(request)
            room -= request.count
            taken.append(request)
        return taken

    def _expire(self, request: Request) -> None:
        if self.leave(request) and not request.future.done():
            request.future.set_exception(self._too_late())

    def _too_late(self) -> DeadlineError:
        return DeadlineError(
            f"model {self._model}: the deadline passed before the request's turn came", reason="DEADLINE_IN_QUEUE"
        )
