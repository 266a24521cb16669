"""Dynamic batching: many callers' rows through one engine, each answer to its own caller.

The batcher is adaptive. While the engine is idle, a request runs at once, together with whatever arrived in the same
turn of the event loop; while it is busy, requests gather and the next batch takes up to `max_batch` rows of them, in
the order of their turns. Nobody waits for company unless the policy has a `queue_delay`.

Everything but the engine itself happens on the event loop, so there are no locks. An engine that is faster than a
change of threads runs on the loop too (`inline`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from batchyard.endpoint.errors import OverloadedError, UnavailableError
from batchyard.serving.answers import Ticket, Whole, settle
from batchyard.serving.batching import BatchPolicy
from batchyard.serving.request_queue import Answer, Request, RequestQueue, Scores
from batchyard.serving.suspects import Suspects
from batchyard.serving.tensors import Pixels

WEIGHT_OF_THE_LAST_BATCH = 0.2
"""In the running mean of the engine's seconds for each row."""


class BatchObserver(Protocol):
    """Is told what the batcher does; called on the event loop."""

    def batch_ran(self, rows: int, seconds: float, requests: int) -> None:
        """The engine took `seconds` for a batch of `rows`, those of so many `requests`."""

    def request_waited(self, seconds: float) -> None:
        """A request left the queue for the engine after `seconds`."""


class BatchError(Exception):
    """The engine failed on the batch that held this request; its cause is what the engine raised."""


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """What one model version's batcher always knows; what may change is its BatchPolicy."""

    model: str
    """For messages: the model and its version."""
    row_shape: tuple[int, ...]
    inline: bool
    """Run the engine on the event loop: right when a batch takes less time than a change of threads."""


class Batcher:
    """Feeds one engine. Belongs to the event loop that makes it."""

    def __init__(
        self,
        run: Callable[[Scores], Scores],
        plan: BatchPlan,
        policy: BatchPolicy,
        executor: Executor,
        observer: BatchObserver,
    ) -> None:
        """`run` maps [n, *row_shape] to [n, outputs], any n from 1; it is never called twice at a time."""
        self._run = run
        self._plan = plan
        self._executor = executor
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._queue = RequestQueue(plan.model, policy.queue_rows, policy.levels)
        self._suspects = Suspects()
        self._busy = False
        self._company: asyncio.TimerHandle | None = None
        """Ends the wait for company."""
        self._closing = False
        self._at_rest = asyncio.Event()
        self._at_rest.set()
        self._seconds_per_row = 0.0
        self.last_run = 0.0, 0.0
        """When the engine began and ended its last batch that was answered, in the event loop's time."""
        self.policy = policy
        """Changed by `change` alone."""
        self._allocate(policy.max_batch)

    @property
    def queued_rows(self) -> int:
        """Rows that wait."""
        return self._queue.rows

    @property
    def refusal(self) -> OverloadedError | None:
        """What any request is told while the queue is as full as it is; None: there may be room."""
        return self._queue.refusal(self._seconds_per_row)

    @property
    def queued_requests(self) -> int:
        """Requests that wait; a large one as its parts."""
        return self._queue.requests

    def change(self, policy: BatchPolicy, plan: BatchPlan) -> None:
        """From the next batch on. What waits stays, even where the new policy would not have let it in."""
        self.policy, self._plan = policy, plan
        self._queue.change(policy.queue_rows, policy.levels)
        self._look_again()

    def post(
        self, rows: Pixels, answer: Answer, deadline: float | None = None, level: int = 0, late_at: float | None = None
    ) -> Ticket:
        """Queues `rows` [n, features]; `answer` gets the engine's outputs in their order, or why there are none.

        It is called once, after this returns, unless the request is withdrawn. `deadline` is in the event loop's time,
        and so is `late_at`, after which the request stands at the end of the queue. `level`: the priority, 1 the
        highest; 0: the policy's default.
        Raises OverloadedError when the queue is full, DeadlineError when the deadline has passed, UnavailableError
        when the version is being closed. What `answer` may get later: DeadlineError as soon as the deadline passes in
        the queue, OverloadedError when higher priorities displace the request, BatchError when the engine fails.
        """
        if self._closing:
            raise UnavailableError(f"model {self._plan.model} is being unloaded; try again", reason="UNLOADING")
        policy = self.policy
        level = min(level or policy.default_level, policy.levels)
        self._queue.make_room(len(rows), level, deadline, self._seconds_per_row)
        if not self._busy:
            # At the end of this turn of the loop: what arrives with us goes with us.
            self._become_busy()
        size = policy.max_batch
        if len(rows) <= size:
            return self._queue.add(rows, answer, deadline, level, late_at)
        whole = Whole(answer, self.withdraw)
        for at in range(0, len(rows), size):
            answer_to_part = whole.answer_to_next_part()
            whole.parts.append(self._queue.add(rows[at : at + size], answer_to_part, deadline, level, late_at))
        return whole

    def withdraw(self, ticket: Ticket) -> None:
        """Nobody waits for this answer any more: the request leaves the queue. One that is answered stays as it is."""
        for request in ticket.parts if isinstance(ticket, Whole) else (ticket,):
            request.answer = None
            self._queue.leave(request)

    async def submit(
        self, rows: Pixels, deadline: float | None = None, level: int = 0, late_at: float | None = None
    ) -> Scores:
        """`post` for a coroutine: returns or raises what the answer is. One that is cancelled leaves the queue."""
        future: asyncio.Future[Scores] = self._loop.create_future()
        ticket = self.post(rows, partial(settle, future), deadline, level, late_at)
        try:
            return await future
        finally:
            self.withdraw(ticket)

    async def drain(self) -> None:
        """Takes no more requests and returns when every one that it has is answered and the engine is at rest."""
        self._closing = True
        self._look_again()
        await self._at_rest.wait()

    def _become_busy(self) -> None:
        self._busy = True
        self._at_rest.clear()
        self._loop.call_soon(self._start_batch)

    def _become_idle(self) -> None:
        self._busy = False
        self._at_rest.set()

    def _look_again(self) -> None:
        """Decides anew whether to start a batch, if the engine is idle and something waits for company."""
        if not self._busy and self._queue:
            self._become_busy()

    def _start_batch(self) -> None:
        taken = self._suspects.next() or self._next_batch()
        if not taken:
            self._become_idle()
        elif self._plan.inline:
            self._finish_batch(taken, *self._run_batch(taken))
        else:
            self._executor.submit(self._run_elsewhere, taken)

    def _next_batch(self) -> list[Request]:
        """The requests whose turn it is, taken out of the queue; none while they wait for company."""
        policy, queue = self.policy, self._queue
        chosen, full = queue.next_batch(policy.max_batch, policy.preferred)
        if self._company is not None:
            self._company.cancel()
            self._company = None
        now = self._loop.time()
        if policy.queue_delay and chosen and not full and not self._closing:
            patience = min(_waits_until(request, policy.queue_delay) for request in chosen)
            if patience > now:
                self._company = self._loop.call_at(patience, self._look_again)
                return []
        queue.take(chosen)
        for request in chosen:
            self._observer.request_waited(now - request.arrived)
        return chosen

    def _run_elsewhere(self, taken: Sequence[Request]) -> None:
        outcome = self._run_batch(taken)
        self._loop.call_soon_threadsafe(self._finish_batch, taken, *outcome)

    def _run_batch(self, taken: Sequence[Request]) -> tuple[Scores | Exception, float]:
        """The engine's outputs or what it raised, and its seconds. The pixels' one copy, cast included, is here."""
        end = sum([request.count for request in taken])
        if len(self._buffer) != (size := max(end, self.policy.max_batch)):
            self._allocate(size)
        np.concatenate([request.rows for request in taken], out=self._flat_buffer[:end])
        began = self._loop.time()
        try:
            scores = self._run(self._buffer[:end])
            if len(scores) != end:
                raise ValueError(f"the engine answered {len(scores)} rows to {end}")
        except Exception as error:  # whatever an engine raises belongs to this batch's callers
            return error, self._loop.time() - began
        ended = self._loop.time()
        self.last_run = began, ended
        return scores, ended - began

    def _allocate(self, rows: int) -> None:
        self._buffer = np.empty((rows, *self._plan.row_shape), np.float32)
        self._flat_buffer = self._buffer.reshape(rows, -1)

    def _finish_batch(self, taken: Sequence[Request], outcome: Scores | Exception, seconds: float) -> None:
        rows = sum([request.count for request in taken])
        if not isinstance(outcome, Exception):
            _deliver(taken, outcome)
        elif not self._suspects.split(taken):
            self._fail(taken, outcome)
        self._observer.batch_ran(rows, seconds, len(taken))
        self._seconds_per_row += WEIGHT_OF_THE_LAST_BATCH * (seconds / rows - self._seconds_per_row)
        if self._queue or self._suspects:
            self._loop.call_soon(self._start_batch)
        else:
            self._become_idle()

    def _fail(self, taken: Sequence[Request], cause: Exception) -> None:
        """An error of each caller's own: one that many tasks raise would collect all their tracebacks."""
        for request in taken:
            error = BatchError(f"the engine failed on a batch of model {self._plan.model}: {type(cause).__name__}")
            error.__cause__ = cause
            request.settle(error)


def _deliver(taken: Sequence[Request], scores: Scores) -> None:
    end = 0
    for request in taken:
        begin, end = end, end + request.count
        request.settle(scores[begin:end])


def _waits_until(request: Request, queue_delay: float) -> float:
    """For company: not longer than half of the time that the request has."""
    if request.deadline is not None:
        queue_delay = min(queue_delay, (request.deadline - request.arrived) / 2)
    return request.arrived + queue_delay
