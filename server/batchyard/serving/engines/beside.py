"""Runs of an engine that does not serve yet, beside others that do: short ones, and a rest after each.

A low priority does not do it. An engine's own threads keep the priority that they were started with, so that a
certificate and a warm-up at full speed halve the speed of what serves: at half load the slowest per cent of requests to
ResNet-18 took 93 ms instead of 34.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from batchyard.serving.engines.interface import Engine

SHARE = 0.25
"""Of the time: what such runs take."""
LONGEST_SECONDS = 0.005
"""A run has so few rows that it is over by then, one row at least."""


def rest(seconds: float, sleep: Callable[[float], None] = time.sleep) -> None:
    """After a run that took so long."""
    sleep(seconds * (1 / SHARE - 1))


class Unhurried:
    """An engine, run so. Is as long open as the engine is."""

    def __init__(self, engine: Engine, sleep: Callable[[float], None] = time.sleep) -> None:
        self.name = engine.name
        self.error_share = getattr(engine, "error_share", 0.0)
        """See engines/certificate.py."""
        self._engine = engine
        self._sleep = sleep
        self._rows = 1

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """[n, *row_shape] -> [n, outputs], a few rows at a time."""
        parts, at = [], 0
        while at < len(rows):
            began = time.perf_counter()
            parts.append(self._engine.run(rows[at : at + self._rows]))
            seconds = time.perf_counter() - began
            at += self._rows
            self._rows = max(1, min(2 * self._rows, int(self._rows * LONGEST_SECONDS / seconds)))
            rest(seconds, self._sleep)
        return np.concatenate(parts)

    def close(self) -> None:
        """Closes the engine."""
        self._engine.close()
