"""Requests that wait for an engine: by priority, bounded in rows, gone as soon as caller or time is.

A level of priority is worth SECONDS_PER_LEVEL of waiting: a request is overtaken by those of the next higher level that
come up to that much later, and by none after. So the levels are strict in a burst, and nobody starves under a load of
higher priority that does not end. In a full queue a request takes the place of the newest ones of lower levels.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from batchyard.endpoint.errors import DeadlineError, OverloadedError
from batchyard.serving.tensors import Pixels

Scores = NDArray[np.float32]
Answer = Callable[[Scores | Exception], None]
"""Takes a request's outputs [rows, outputs] or why there are none; called at most once, on the event loop."""
SECONDS_PER_LEVEL = 1.0
LONGEST_RETRY_SECONDS = 5.0
SHORTEST_RETRY_SECONDS = 0.01


class Request:
    """A caller's rows, or a part of a large request's, and where the answer goes."""

    __slots__ = ("answer", "arrived", "count", "deadline", "line", "rows", "timer", "turn")

    def __init__(self, rows: Pixels, answer: Answer, arrived: float, deadline: float | None) -> None:
        self.rows = rows
        self.count = len(rows)
        self.answer: Answer | None = answer
        """None: it is answered, or nobody waits any more."""
        self.arrived = arrived
        self.deadline = deadline
        self.turn = arrived
        """The request with the smallest goes first."""
        self.line: Line
        self.timer: asyncio.TimerHandle | None = None

    def settle(self, outcome: Scores | Exception) -> None:
        """Answers, if anybody still waits."""
        if (answer := self.answer) is not None:
            self.answer = None
            answer(outcome)


class Line:
    """Requests of one level in the order of their turns."""

    __slots__ = ("requests", "rows")

    def __init__(self) -> None:
        # Ordered and quick to leave from the middle; a list would be slow to leave, a plain dict slow to take from.
        self.requests: OrderedDict[int, Request] = OrderedDict()
        self.rows = 0

    def append(self, request: Request) -> None:
        """Last in turn."""
        self.requests[id(request)] = request
        self.rows += request.count
        request.line = self

    def remove(self, request: Request) -> bool:
        """Whether it was still there."""
        if self.requests.pop(id(request), None) is None:
            return False
        self.rows -= request.count
        return True


class RequestQueue:
    """Belongs to the event loop that makes it; so there are no locks. Times are the loop's, which never go back."""

    def __init__(self, model: str, max_rows: int, levels: int = 1) -> None:
        """`model` is for messages: the model and its version."""
        self._model = model
        self._max_rows = max_rows
        self._loop = asyncio.get_running_loop()
        self._lines = [Line() for _ in range(levels)]
        self._late = Line()
        self._refusal: OverloadedError | None = None
        """What is told while the queue stays as full as it is."""
        self.rows = 0
        """Rows that wait."""

    def __bool__(self) -> bool:
        return self.rows > 0

    @property
    def requests(self) -> int:
        """That wait."""
        return sum(len(line.requests) for line in (*self._lines, self._late))

    def change(self, max_rows: int, levels: int) -> None:
        """New bounds; what waits stays, at the lowest level there is if its own is gone."""
        self._max_rows = max_rows
        self._refusal = None
        kept, gone = self._lines[:levels], self._lines[levels:]
        if gone:
            lowest = Line()
            for request in heapq.merge(
                *(line.requests.values() for line in (kept[-1], *gone)), key=attrgetter("arrived")
            ):
                request.turn = request.arrived + (levels - 1) * SECONDS_PER_LEVEL
                lowest.append(request)
            kept[-1] = lowest
        self._lines = kept + [Line() for _ in range(levels - len(kept))]

    def refusal(self, seconds_per_row: float) -> OverloadedError | None:
        """What every request is told now, however small it is; None: there may be room. The same one many times."""
        if self.rows < self._max_rows or len(self._lines) > 1:
            return None
        if self._refusal is None:
            problem = f"{self.rows} rows wait and the queue holds {self._max_rows}"
            self._refusal = self._overloaded(problem, seconds_per_row)
        return self._refusal

    def make_room(self, count: int, level: int, deadline: float | None, seconds_per_row: float) -> None:
        """Raises OverloadedError if `count` more rows are too many, DeadlineError if the deadline is over already.

        Where there are enough rows of lower levels, the newest of those are told OverloadedError instead.
        """
        if deadline is not None and deadline <= self._loop.time():
            raise self._too_late()
        missing = self.rows + count - self._max_rows
        if missing <= 0:
            return
        lower = self._lines[level:]
        if sum(line.rows for line in lower) < missing:
            raise self._full(count, seconds_per_row)
        for line in reversed(lower):
            while missing > 0 and line.requests:
                missing -= self._displace(next(reversed(line.requests.values())), seconds_per_row)

    def add(
        self, rows: Pixels, answer: Answer, deadline: float | None = None, level: int = 1, late_at: float | None = None
    ) -> Request:
        """Queues rows. When the deadline passes first, the request is answered DeadlineError, by a timer.

        After `late_at` it stands at the end of the queue.
        """
        request = Request(rows, answer, self._loop.time(), deadline)
        if level > 1:
            request.turn += (level - 1) * SECONDS_PER_LEVEL
        self._lines[level - 1].append(request)
        self.rows += request.count
        if late_at is not None and (deadline is None or late_at < deadline):
            request.timer = self._loop.call_at(late_at, self._make_late, request)
        elif deadline is not None:
            request.timer = self._loop.call_at(deadline, self._expire, request)
        return request

    def leave(self, request: Request) -> bool:
        """Takes a request out, wherever it stands. Whether it was still there."""
        if request.timer is not None:
            request.timer.cancel()
            request.timer = None
        if not request.line.remove(request):
            return False
        self.rows -= request.count
        self._refusal = None
        return True

    def next_batch(self, room: int, preferred: Collection[int] = ()) -> tuple[list[Request], bool]:
        """Whose turn it is, up to `room` rows, and whether waiting for company could not make the batch better.

        The batch ends at the largest `preferred` size that whole requests make up. A single request is in it however
        large it is. Nobody leaves the queue, except those whose time is over, who are told so.
        """
        chosen: list[Request] = []
        rows, ends_at, full = 0, 0, False
        now, expired = self._loop.time(), []
        for request in self._in_turn():
            if request.deadline is not None and request.deadline <= now:
                expired.append(request)
                continue
            if chosen and rows + request.count > room:
                full = True
                break
            rows += request.count
            chosen.append(request)
            if rows in preferred:
                ends_at = len(chosen)
        for request in expired:
            self._expire(request)
        if ends_at:
            del chosen[ends_at:]
        return chosen, full or ends_at > 0 or rows >= room

    def take(self, requests: Iterable[Request]) -> None:
        """Takes the requests of a batch out."""
        for request in requests:
            self.leave(request)

    def _in_turn(self) -> Iterable[Request]:
        lines = [line.requests.values() for line in (*self._lines, self._late) if line.requests]
        return lines[0] if len(lines) == 1 else heapq.merge(*lines, key=attrgetter("turn"))

    def _make_late(self, request: Request) -> None:
        """To the end: as if it came now, at a level below the lowest."""
        request.line.remove(request)
        request.turn = self._loop.time() + len(self._lines) * SECONDS_PER_LEVEL
        self._late.append(request)
        request.timer = None
        if request.deadline is not None:
            request.timer = self._loop.call_at(request.deadline, self._expire, request)

    def _expire(self, request: Request) -> None:
        if self.leave(request):
            request.settle(self._too_late())

    def _displace(self, request: Request, seconds_per_row: float) -> int:
        self.leave(request)
        request.settle(
            self._overloaded("requests of a higher priority took its place in the full queue", seconds_per_row)
        )
        return request.count

    def _full(self, count: int, seconds_per_row: float) -> OverloadedError:
        problem = f"{self.rows} rows wait and {count} more would exceed the queue's {self._max_rows}"
        return self._overloaded(problem, seconds_per_row)

    def _overloaded(self, problem: str, seconds_per_row: float) -> OverloadedError:
        seconds = min(max(self.rows * seconds_per_row, SHORTEST_RETRY_SECONDS), LONGEST_RETRY_SECONDS)
        return OverloadedError(
            f"model {self._model}: {problem}; try again later or elsewhere",
            reason="QUEUE_FULL",
            retry_after=seconds,
            metadata={"model": self._model},
        )

    def _too_late(self) -> DeadlineError:
        return DeadlineError(
            f"model {self._model}: the deadline passed before the request's turn came", reason="DEADLINE_IN_QUEUE"
        )
