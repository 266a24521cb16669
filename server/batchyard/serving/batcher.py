"""Dynamic batching: many callers' rows through one engine, each answer to its own caller.

The batcher is adaptive. While the engine is idle, a request runs at once, together with whatever arrived in the same
turn of the event loop; while it is busy, requests gather and the next batch takes up to `max_batch` rows of them, in
order of arrival. Nobody waits for company.

Everything but the engine itself happens on the event loop, so there are no locks. An engine that is faster than a
change of threads runs on the loop too (`inline`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from batchyard.endpoint.errors import UnavailableError
from batchyard.serving.request_queue import Request, RequestQueue, Scores
from batchyard.serving.tensors import Pixels

WEIGHT_OF_THE_LAST_BATCH = 0.2
"""In the running mean of the engine's seconds for each row."""


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
        self._queue = RequestQueue(plan.model, plan.queue_rows)
        self._busy = False
        self._closing = False
        self._in_flight = 0
        self._at_rest = asyncio.Event()
        self._at_rest.set()
        self._seconds_per_row = 0.0
        self._buffer = np.empty((plan.max_batch, *plan.row_shape), np.float32)
        self._flat_buffer = self._buffer.reshape(plan.max_batch, -1)

    @property
    def queued_rows(self) -> int:
        """Rows that wait."""
        return self._queue.rows

    async def submit(self, rows: Pixels, deadline: float | None = None) -> Scores:
        """The engine's outputs for `rows` [n, features], in their order.

        `deadline` is in the event loop's time. A request that is cancelled leaves the queue.
        Raises OverloadedError at once when the queue is full, DeadlineError as soon as the deadline passes in the
        queue, UnavailableError when the version is being closed, BatchError when the engine fails.
        """
        if self._closing:
            raise UnavailableError(f"model {self._plan.model} is being unloaded; try again", reason="UNLOADING")
        self._queue.check_room(len(rows), deadline, self._seconds_per_row)
        self._begin()
        try:
            if len(rows) <= self._plan.max_batch:
                return await self._answer_to(self._enqueue(rows, deadline))
            return await self._answer_in_parts(rows, deadline)
        finally:
            self._end()

    async def drain(self) -> None:
        """Takes no more requests and returns when every one that it has is answered and the engine is at rest."""
        self._closing = True
        await self._at_rest.wait()

    def _begin(self) -> None:
        self._in_flight += 1
        self._at_rest.clear()

    def _end(self) -> None:
        self._in_flight -= 1
        if not self._in_flight:
            self._at_rest.set()

    def _enqueue(self, rows: Pixels, deadline: float | None) -> Request:
        if not self._busy:
            # At the end of this turn of the loop: what arrives with us goes with us.
            self._busy = True
            self._loop.call_soon(self._start_batch)
        return self._queue.add(rows, deadline)

    async def _answer_to(self, request: Request) -> Scores:
        try:
            return await request.future
        finally:
            self._queue.leave(request)

    async def _answer_in_parts(self, rows: Pixels, deadline: float | None) -> Scores:
        """For a request larger than a batch. Its parts stay in order; one that fails takes the others along."""
        size = self._plan.max_batch
        parts = [self._enqueue(rows[at : at + size], deadline) for at in range(0, len(rows), size)]
        try:
            return np.concatenate(await asyncio.gather(*(part.future for part in parts)))
        finally:
            for part in parts:
                self._queue.leave(part)
                part.future.cancel()

    def _start_batch(self) -> None:
        taken = self._queue.take(self._plan.max_batch)
        now = self._loop.time()
        for request in taken:
            self._observer.request_waited(now - request.arrived)
        if not taken:
            self._busy = False
        elif self._plan.inline:
            self._finish_batch(taken, *self._run_batch(taken))
        else:
            self._begin()  # the engine itself, so that drain() waits for it even when every caller has left
            self._executor.submit(self._run_elsewhere, taken)

    def _run_elsewhere(self, taken: Sequence[Request]) -> None:
        outcome = self._run_batch(taken)
        self._loop.call_soon_threadsafe(self._finish_elsewhere, taken, *outcome)

    def _finish_elsewhere(self, taken: Sequence[Request], outcome: Scores | Exception, seconds: float) -> None:
        self._finish_batch(taken, outcome, seconds)
        self._end()

    def _run_batch(self, taken: Sequence[Request]) -> tuple[Scores | Exception, float]:
        """The engine's outputs or what it raised, and its seconds. The pixels' one copy, cast included, is here."""
        end, buffer = 0, self._flat_buffer
        for request in taken:
            begin, end = end, end + request.count
            buffer[begin:end] = request.rows
        began = self._loop.time()
        try:
            outcome: Scores | Exception = self._run(self._buffer[:end])
        except Exception as error:  # whatever an engine raises belongs to this batch's callers
            outcome = error
        return outcome, self._loop.time() - began

    def _finish_batch(self, taken: Sequence[Request], outcome: Scores | Exception, seconds: float) -> None:
        end = 0
        for request in taken:
            begin, end = end, end + request.count
            if request.future.done():
                continue
            if isinstance(outcome, Exception):
                request.future.set_exception(self._failure(outcome))
            else:
                request.future.set_result(outcome[begin:end])
        self._observer.batch_ran(end, seconds)
        self._seconds_per_row += WEIGHT_OF_THE_LAST_BATCH * (seconds / end - self._seconds_per_row)
        if self._queue:
            self._loop.call_soon(self._start_batch)
        else:
            self._busy = False

    def _failure(self, cause: Exception) -> BatchError:
        """An error of each caller's own: one that many tasks raise would collect all their tracebacks."""
        error = BatchError(f"the engine failed on a batch of model {self._plan.model}: {type(cause).__name__}")
        error.__cause__ = cause
        return error
