"""Dynamic batching: many callers' rows through one engine, each answer to its own caller.

The batcher is adaptive. While the engine is idle, a request runs at once, together with whatever arrived in the same
turn of the event loop; while it is busy, requests gather and the next batch takes up to `max_batch` rows of them, in
order of arrival. Nobody waits for company.

Everything but the engine itself happens on the event loop, so there are no locks. An engine that is faster than a
change of threads runs on the loop too (`inline`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from batchyard.endpoint.errors import DeadlineError, OverloadedError, UnavailableError
from batchyard.serving.tensors import Pixels

Scores = NDArray[np.float32]
LONGEST_RETRY_SECONDS = 5.0
SHORTEST_RETRY_SECONDS = 0.01


class BatchObserver(Protocol):
    """Is told what the batcher does; called on the event loop."""

    def batch_ran(self, rows: int, seconds: float) -> None:
        """The engine took `seconds` for a batch of `rows`."""

    def request_waited(self, seconds: float) -> None:
        """A request left the queue for the engine after `seconds`."""


class BatchError(Exception):
    """The engine failed on the batch that held this request; its cause is what the engine raised."""


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """How one model version is batched."""

    model: str
    """For messages: the model and its version."""
    row_shape: tuple[int, ...]
    max_batch: int
    queue_rows: int
    inline: bool
    """Run the engine on the event loop: right when a batch takes less time than a change of threads."""


class _Entry:
    """A request, or a part of a large one, in the queue."""

    __slots__ = ("arrived", "deadline", "future", "rows", "timer")

    def __init__(self, rows: Pixels, future: asyncio.Future[Scores], arrived: float, deadline: float | None) -> None:
        self.rows = rows
        self.future = future
        self.arrived = arrived
        self.deadline = deadline
        self.timer: asyncio.TimerHandle | None = None


class Batcher:
    """Feeds one engine. Belongs to the event loop that makes it."""

    def __init__(
        self, run: Callable[[Scores], Scores], plan: BatchPlan, executor: Executor, observer: BatchObserver
    ) -> None:
        """`run` maps [n, *row_shape] to [n, outputs], n up to plan.max_batch; it is never called twice at a time."""
        self._run = run
        self._plan = plan
        self._executor = executor
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._queue: OrderedDict[int, _Entry] = OrderedDict()
        self._queued_rows = 0
        self._in_flight = 0
        self._busy = False
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._seconds_per_row = 0.0
        self._buffer = np.empty((plan.max_batch, *plan.row_shape), np.float32)
        self._flat_buffer = self._buffer.reshape(plan.max_batch, -1)

    @property
    def queued_rows(self) -> int:
        """Rows that wait."""
        return self._queued_rows

    async def submit(self, rows: Pixels, deadline: float | None = None) -> Scores:
        """The engine's outputs for `rows` [n, features], in their order.

        `deadline` is in the event loop's time. A request that is cancelled leaves the queue.
        Raises OverloadedError at once when the queue is full, DeadlineError as soon as the deadline passes in the
        queue, UnavailableError when the version is being closed, BatchError when the engine fails.
        """
        self._admit(len(rows), deadline)
        size = self._plan.max_batch
        self._in_flight += 1
        self._idle.clear()
        try:
            if len(rows) <= size:
                return await self._wait(self._enqueue(rows, deadline))
            parts = [self._enqueue(rows[at : at + size], deadline) for at in range(0, len(rows), size)]
            return await self._wait_for_all(parts)
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def drain(self) -> None:
        """Takes no more requests and returns when every one that it has is answered and the engine is at rest."""
        self._closing = True
        await self._idle.wait()

    def _admit(self, rows: int, deadline: float | None) -> None:
        plan = self._plan
        if self._closing:
            raise UnavailableError(f"model {plan.model} is being unloaded; try again", reason="UNLOADING")
        if deadline is not None and deadline <= self._loop.time():
            raise self._too_late()
        if self._queued_rows + rows > plan.queue_rows:
            raise OverloadedError(
                f"model {plan.model}: {self._queued_rows} rows wait and {rows} more would exceed the queue's "
                f"{plan.queue_rows}; try again later or elsewhere",
                reason="QUEUE_FULL",
                retry_after=self._time_to_clear(),
                metadata={"model": plan.model},
            )

    def _time_to_clear(self) -> float:
        seconds = self._queued_rows * self._seconds_per_row
        return min(max(seconds, SHORTEST_RETRY_SECONDS), LONGEST_RETRY_SECONDS)

    def _too_late(self) -> DeadlineError:
        return DeadlineError(
            f"model {self._plan.model}: the deadline passed before the request's turn came", reason="DEADLINE_IN_QUEUE"
        )

    def _failure(self, cause: Exception) -> BatchError:
        """An error of each caller's own: one that many tasks raise would collect all their tracebacks."""
        error = BatchError(f"the engine failed on a batch of model {self._plan.model}: {type(cause).__name__}")
        error.__cause__ = cause
        return error

    def _enqueue(self, rows: Pixels, deadline: float | None) -> _Entry:
        loop = self._loop
        entry = _Entry(rows, loop.create_future(), loop.time(), deadline)
        self._queue[id(entry)] = entry
        self._queued_rows += len(rows)
        if deadline is not None:
            entry.timer = loop.call_at(deadline, self._expire, entry)
        if not self._busy:
            # At the end of this turn of the loop: what arrives with us goes with us.
            self._busy = True
            loop.call_soon(self._start_batch)
        return entry

    async def _wait(self, entry: _Entry) -> Scores:
        try:
            return await entry.future
        finally:
            self._leave_queue(entry)

    async def _wait_for_all(self, parts: Sequence[_Entry]) -> Scores:
        try:
            return np.concatenate(await asyncio.gather(*(part.future for part in parts)))
        finally:
            for part in parts:
                self._leave_queue(part)
                part.future.cancel()

    def _leave_queue(self, entry: _Entry) -> bool:
        """Whether it was still queued."""
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        if self._queue.pop(id(entry), None) is None:
            return False
        self._queued_rows -= len(entry.rows)
        return True

    def _expire(self, entry: _Entry) -> None:
        if self._leave_queue(entry) and not entry.future.done():
            entry.future.set_exception(self._too_late())

    def _take_batch(self) -> list[_Entry]:
        """The next entries in order, as many as fit; those whose deadline has passed are answered instead."""
        taken: list[_Entry] = []
        room = self._plan.max_batch
        now = self._loop.time()
        while self._queue:
            entry = next(iter(self._queue.values()))
            if entry.deadline is not None and entry.deadline <= now:
                self._expire(entry)
                continue
            if len(entry.rows) > room:
                break
            self._leave_queue(entry)
            self._observer.request_waited(now - entry.arrived)
            room -= len(entry.rows)
            taken.append(entry)
        return taken

    def _start_batch(self) -> None:
        taken = self._take_batch()
        if not taken:
            self._busy = False
        elif self._plan.inline:
            self._finish_batch(taken, *self._run_batch(taken))
        else:
            self._in_flight += 1  # the engine itself, so that drain() waits for it even when every caller has left
            self._executor.submit(self._run_elsewhere, taken)

    def _run_elsewhere(self, taken: list[_Entry]) -> None:
        outcome = self._run_batch(taken)
        self._loop.call_soon_threadsafe(self._finish_elsewhere, taken, *outcome)

    def _finish_elsewhere(self, taken: list[_Entry], outcome: Scores | Exception, seconds: float) -> None:
        self._finish_batch(taken, outcome, seconds)
        self._in_flight -= 1
        if not self._in_flight:
            self._idle.set()

    def _run_batch(self, taken: list[_Entry]) -> tuple[Scores | Exception, float]:
        """The engine's outputs or what it raised, and its seconds. The pixels' one copy, cast included, is here."""
        at, buffer = 0, self._flat_buffer
        for entry in taken:
            buffer[at : at + len(entry.rows)] = entry.rows
            at += len(entry.rows)
        began = self._loop.time()
        try:
            outcome: Scores | Exception = self._run(self._buffer[:at])
        except Exception as error:  # whatever an engine raises belongs to this batch's callers
            outcome = error
        return outcome, self._loop.time() - began

    def _finish_batch(self, taken: list[_Entry], outcome: Scores | Exception, seconds: float) -> None:
        rows = sum(len(entry.rows) for entry in taken)
        self._observer.batch_ran(rows, seconds)
        self._seconds_per_row += 0.2 * (seconds / rows - self._seconds_per_row)
        at = 0
        for entry in taken:
            end = at + len(entry.rows)
            if not entry.future.done():
                if isinstance(outcome, Exception):
                    entry.future.set_exception(self._failure(outcome))
                else:
                    entry.future.set_result(outcome[at:end])
            at = end
        if self._queue:
            self._loop.call_soon(self._start_batch)
        else:
            self._busy = False
