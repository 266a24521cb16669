"""How long an engine's batches take on this machine when it has nothing else to do, measured while it may have.

A run of less than a millisecond is seldom interrupted, so the fastest of several counts. A longer one is: on a machine
whose cores are all busy its threads wait for a core, and those of a parallel engine for each other besides. Linux
tells how long each thread waited to be run (/proc/PID/task/TID/schedstat, field 2); without that wait a run of
ResNet-18 takes the same within a few per cent on an idle machine and on one with a busy process for each core, where
the clock on the wall says twice as much.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SHORT_SECONDS = 0.001
"""A run below this is over before the scheduler takes the core away."""
LEAST_SECONDS = 0.03
"""Longer runs are repeated as well, until this has passed."""
SHORT_RUNS_SECONDS, MOST_SHORT_RUNS = 0.01, 200
"""How long short runs are repeated."""
TASKS = Path("/proc/self/task")

Run = Callable[[NDArray[np.float32]], object]


def undisturbed_seconds(run: Run, batch: NDArray[np.float32], threads: int) -> float:
    """Of one run of an engine that uses so many threads."""
    end, seconds = time.perf_counter() + LEAST_SECONDS, _long_run(run, batch, threads)
    if seconds < SHORT_SECONDS:
        return min(seconds, _short_runs(run, batch))
    while time.perf_counter() < end:
        seconds = min(seconds, _long_run(run, batch, threads))
    return seconds


def _long_run(run: Run, batch: NDArray[np.float32], threads: int) -> float:
    """The time on the wall less that of the thread that waited longest for a core; no less than the work needs."""
    waited = _waits()
    began, worked = time.perf_counter(), time.process_time()
    run(batch)
    elapsed, work = time.perf_counter() - began, time.process_time() - worked
    longest = max((wait - waited.get(task, 0.0) for task, wait in _waits().items()), default=0.0)
    return min(elapsed, max(elapsed - longest, work / threads))


def _short_runs(run: Run, batch: NDArray[np.float32]) -> float:
    """The fastest on the wall."""
    fastest, end = float("inf"), time.perf_counter() + SHORT_RUNS_SECONDS
    for _ in range(MOST_SHORT_RUNS):
        began = time.perf_counter()
        run(batch)
        ended = time.perf_counter()
        fastest = min(fastest, ended - began)
        if ended > end:
            break
    return fastest


def _waits() -> dict[str, float]:
    """Thread -> seconds for which it could have run and had no core; empty where the system does not tell."""
    waits: dict[str, float] = {}
    for statistics in TASKS.glob("*/schedstat"):
        try:
            waits[statistics.parent.name] = int(statistics.read_bytes().split()[1]) / 1e9
        except OSError:  # the thread has just ended
            continue
    return waits
