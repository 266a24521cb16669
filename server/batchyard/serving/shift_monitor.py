"""Measures a share of one version's requests, so that inference never waits for it.

On the event loop a request costs a subtraction, a chosen one a copy of a few rows. The probe runs on a thread of its
own, a few rows at a time, and after each run it rests so long that it takes at most SHARE of one core. What comes
faster than that is dropped and counted. Everything but the probe's run happens on the event loop: there are no locks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import numpy as np

from batchyard.artifact.manifest import ProbeRecord
from batchyard.serving.shift_probe import Probe, ProbeError
from batchyard.serving.shift_report import ShiftReport, layer_reports
from batchyard.serving.shift_sampler import Chooser, Rows, RowStore, copy_of_some
from batchyard.serving.shift_score import RowSums
from batchyard.serving.shift_window import Window

SHARE = 0.05
"""Of one core's time: what the probe may take."""
RUN_SECONDS = 0.01
"""A run takes so many rows that it lasts about this long."""
MOST_ROWS = 64
"""Of one run."""
WAITING_ROWS, WAITING_BYTES = 1024, 16 << 20
KEPT_BYTES = 16 << 20
"""Most memory for the newest sampled rows, which stay: RecalibrateModel may ask for them."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one run of the probe gave."""

    sums: RowSums
    not_finite: int
    rows: int
    seconds: float


class ShiftMonitor:
    """Watches one version. Belongs to the event loop that makes it."""

    def __init__(
        self,
        label: str,
        record: ProbeRecord,
        open_probe: Callable[[], Probe],
        rate: float,
        executor: Executor,
        keep_rows: int,
    ) -> None:
        """`open_probe` is called on the executor at the first chosen request; `rate` is above 0, at most 1.

        The newest `keep_rows` sampled rows stay in memory.
        """
        self.label = label
        self.record = record
        self.rate = rate
        self.keep_rows = keep_rows
        self._open_probe = open_probe
        self._executor = executor
        self._loop = asyncio.get_running_loop()
        self._chooser = Chooser(rate)
        self._waiting = RowStore(WAITING_ROWS, WAITING_BYTES)
        self._kept = RowStore(keep_rows, KEPT_BYTES)
        self._window = Window(sum(len(layer.channels) for layer in record.layers))
        self._probe: Probe | None = None
        self._running = False
        self._stopped = False
        self._rows_of_a_run = 1
        self._dropped = 0
        self._not_finite = 0
        self._failure = ""

    def offer(self, rows: Rows) -> None:
        """Called with the rows [n, features] of every request; copies what it wants of them."""
        if self._chooser.chosen() and not self._stopped and len(rows):
            self._take(copy_of_some(rows))

    def report(self) -> ShiftReport:
        """What is known now."""
        return ShiftReport(
            rows=self._window.rows,
            dropped_rows=self._dropped,
            not_finite_rows=self._not_finite,
            failure=self._failure,
            layers=layer_reports(self.record.layers, self._window.total()),
        )

    def newest_rows(self, count: int) -> Rows:
        """The newest `count` sampled rows [n, features], oldest first, or what is kept of them."""
        return self._kept.newest(count)

    def close(self) -> None:
        """Measures nothing more."""
        self._stopped = True

    def _take(self, rows: Rows) -> None:
        self._kept.add_newest(rows)
        if not self._waiting.has_room(rows):
            self._dropped += len(rows)
            return
        self._waiting.add(rows)
        if not self._running:
            self._running = True
            self._start()

    def _start(self) -> None:
        taken = [] if self._stopped else self._waiting.take(self._rows_of_a_run)
        if not taken:
            self._running = False
            return
        self._executor.submit(self._measure, taken).add_done_callback(self._tell_loop)

    def _measure(self, taken: list[Rows]) -> Measured:
        """Runs on the executor."""
        if self._probe is None:
            self._probe = self._open_probe()
        began = time.perf_counter()
        rows = np.concatenate(taken)
        moments = self._probe.run(rows)
        finite = np.isfinite(moments).all(axis=(1, 2))
        sums = RowSums.of(moments[finite])
        return Measured(
            sums=sums, not_finite=len(rows) - sums.rows, rows=len(rows), seconds=time.perf_counter() - began
        )

    def _tell_loop(self, done: Future[Measured]) -> None:
        if not self._stopped:
            self._loop.call_soon_threadsafe(self._finish, done)

    def _finish(self, done: Future[Measured]) -> None:
        error = done.exception()
        if error is not None:
            self._fail(error)
            return
        measured = done.result()
        self._window.add(measured.sums)
        self._not_finite += measured.not_finite
        self._rows_of_a_run = min(MOST_ROWS, max(1, int(RUN_SECONDS * measured.rows / measured.seconds)))
        self._loop.call_later(measured.seconds * (1 / SHARE - 1), self._start)

    def _fail(self, error: BaseException) -> None:
        known = isinstance(error, ProbeError)
        self._failure = str(error) if known else f"{type(error).__name__}; the server's log has the details"
        self._stopped = True
        log.error("the shift of %s is not measured any more: %s", self.label, error, exc_info=not known and error)
