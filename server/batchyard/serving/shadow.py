"""A version that gets copies of another one's requests; its answers are compared and thrown away.

On the event loop a request costs a subtraction, a chosen one a copy of a few rows just before its caller is answered.
The shadow has an engine of its own on a thread of low priority, several copies at a time, and rests after each run so
long that it takes at most SHARE of one core. What comes faster than that is dropped and counted. Everything but the
engine's run happens on the event loop: there are no locks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from batchyard.serving.engines.interface import Engine, EngineError
from batchyard.serving.request_queue import Answer, Scores
from batchyard.serving.shadow_comparison import Comparison, compare
from batchyard.serving.shift_sampler import Chooser, Rows, copy_of_some

SHARE = 0.25
"""Of one core's time: what a shadow's engine may take."""
RUN_SECONDS = 0.01
"""A run takes so many copies that it lasts about this long."""
MOST_ROWS = 64
"""Of one run."""
WAITING_ROWS, WAITING_BYTES = 1024, 16 << 20
REST_AFTER_FAILURE_SECONDS = 1.0
"""A shadow that fails is tried again, seldom."""
SCHEDULING = Path("/proc/thread-self/schedstat")
"""Field 2: nanoseconds for which this thread could have run and had no core."""

log = logging.getLogger(__name__)


class Copy(NamedTuple):
    """Some rows of a request [n, features], and what its caller got for them [n, outputs]."""

    rows: Rows
    answers: Scores


@dataclass(frozen=True, kw_only=True)
class ShadowReport:
    """What is known of a shadow at one moment."""

    version: str
    """The shadow's."""
    share: float
    """Of the requests: what is copied."""
    compared: Comparison
    dropped_rows: int
    """Copies for which there was no room, because too many waited."""
    failed_rows: int
    failure: str
    """The last one of the shadow, or why it cannot be compared at all; empty while all is well."""

    @property
    def mean_difference(self) -> float | None:
        """Mean absolute difference of the outputs; None: nothing has been compared."""
        return self.compared.difference / self.compared.rows if self.compared.rows else None

    @property
    def seconds_per_row(self) -> float | None:
        """Of the shadow's engine; None: it has not run."""
        rows = self.compared.rows + self.compared.not_finite
        return self.compared.seconds / rows if rows else None


class Shadow:
    """Stands beside one served version. Belongs to the event loop that makes it."""

    def __init__(
        self,
        version: str,
        share: float,
        row_shape: tuple[int, ...],
        open_engine: Callable[[], Engine],
        executor: Executor,
        refusal: str = "",
    ) -> None:
        """`version`, `row_shape`: the shadow's. `share`: of the requests, above 0, at most 1.

        `open_engine` is called on the executor at the first chosen request. `refusal`: why the two cannot be compared.
        """
        self.version = version
        self._row_shape = row_shape
        self._open_engine = open_engine
        self._executor = executor
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Copy] = deque()
        self._waiting_rows = self._waiting_bytes = 0
        self._engine: Engine | None = None
        self._running = False
        self._stopped = bool(refusal)
        self._rows_of_a_run = 1
        self._compared = Comparison()
        self._dropped_rows = self._failed_rows = 0
        self._failure = refusal
        self.take_share(share)

    def take_share(self, share: float) -> None:
        """Of the requests from now on; what is counted stays."""
        self.share = share
        self._chooser = Chooser(share)

    def copied(self, rows: Rows, answer: Answer) -> Answer:
        """Called with every request's rows [n, features]; returns what is to be answered in place of `answer`."""
        if self._stopped or not self._chooser.chosen() or not len(rows):
            return answer
        return partial(self._answered, rows, answer)

    def report(self) -> ShadowReport:
        """What is known now."""
        return ShadowReport(
            version=self.version,
            share=self.share,
            compared=self._compared,
            dropped_rows=self._dropped_rows,
            failed_rows=self._failed_rows,
            failure=self._failure,
        )

    def close(self) -> None:
        """Compares nothing more; the engine is freed after the run under way."""
        self._stopped = True
        self._waiting.clear()
        self._executor.submit(self._free)

    def _answered(self, rows: Rows, answer: Answer, outcome: Scores | Exception) -> None:
        # Before the caller hears: it may write into its shared memory again as soon as it has.
        copy = None if isinstance(outcome, Exception) else Copy(copy_of_some(rows), copy_of_some(outcome))
        answer(outcome)
        if copy is not None and not self._stopped:
            self._take(copy)

    def _take(self, copy: Copy) -> None:
        size = copy.rows.nbytes + copy.answers.nbytes
        if self._waiting_rows + len(copy.rows) > WAITING_ROWS or self._waiting_bytes + size > WAITING_BYTES:
            self._dropped_rows += len(copy.rows)
            return
        self._waiting.append(copy)
        self._waiting_rows += len(copy.rows)
        self._waiting_bytes += size
        if not self._running:
            self._running = True
            self._start()

    def _start(self) -> None:
        taken: list[Copy] = []
        rows = 0
        while self._waiting and (not taken or rows + len(self._waiting[0].rows) <= self._rows_of_a_run):
            taken.append(copy := self._waiting.popleft())
            rows += len(copy.rows)
            self._waiting_bytes -= copy.rows.nbytes + copy.answers.nbytes
        self._waiting_rows -= rows
        if not taken or self._stopped:
            self._running = False
            return
        run = self._executor.submit(self._compare, taken)
        run.add_done_callback(partial(self._tell_loop, rows))

    def _compare(self, taken: list[Copy]) -> Comparison:
        """Runs on the executor."""
        if self._engine is None:
            self._engine = self._open_engine()
        rows = np.concatenate([copy.rows for copy in taken]).astype(np.float32, copy=False)
        answers = np.concatenate([copy.answers for copy in taken])
        shadows, seconds = _timed(self._engine.run, np.ascontiguousarray(rows.reshape(-1, *self._row_shape)))
        if shadows.shape != answers.shape:
            raise EngineError(f"it answers {list(shadows.shape)}; the version that serves {list(answers.shape)}")
        return compare(answers, shadows, len(taken), seconds)

    def _free(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _tell_loop(self, rows: int, done: Future[Comparison]) -> None:
        if not self._stopped:
            self._loop.call_soon_threadsafe(self._finish, rows, done)

    def _finish(self, rows: int, done: Future[Comparison]) -> None:
        error = done.exception()
        if error is None:
            compared = done.result()
            self._compared += compared
            self._rows_of_a_run = min(MOST_ROWS, max(1, int(RUN_SECONDS * rows / max(compared.seconds, 1e-6))))
            rest = compared.seconds * (1 / SHARE - 1)
        else:
            self._fail(rows, error)
            rest = REST_AFTER_FAILURE_SECONDS
        self._loop.call_later(rest, self._start)

    def _fail(self, rows: int, error: BaseException) -> None:
        self._failed_rows += rows
        known = isinstance(error, EngineError)
        self._failure = str(error) if known else f"{type(error).__name__}; the server's log has the details"
        log.error("shadow version %s failed: %s", self.version, error, exc_info=not known and error)


def _timed(run: Callable[[Rows], Scores], rows: Rows) -> tuple[Scores, float]:
    """Its scores and its seconds, without those in which this thread had no core."""
    before, waited = time.perf_counter(), _waited()
    began = time.perf_counter()
    scores = run(rows)
    seconds = time.perf_counter() - began
    if (waited := _waited() - waited) > 0:  # perhaps between two of these lines: only the whole is sure to hold it
        seconds = time.perf_counter() - before - waited
    return scores, seconds


def _waited() -> float:
    """Seconds, as far as the system tells."""
    try:
        return int(SCHEDULING.read_bytes().split()[1]) / 1e9
    except OSError:
        return 0.0
