"""An engine that is tried beside others runs shortly and rests long."""

from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray

from batchyard.serving.engines.beside import LONGEST_SECONDS, SHARE, Unhurried


class Doubling:
    """Takes some time for each row."""

    name = "doubling"

    def __init__(self, seconds_per_row: float) -> None:
        self.batches: list[int] = []
        self.seconds = 0.0
        self.closed = False
        self._seconds_per_row = seconds_per_row

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        self.batches.append(len(rows))
        began = time.perf_counter()
        while time.perf_counter() - began < self._seconds_per_row * len(rows):
            pass
        self.seconds += time.perf_counter() - began
        return 2 * rows

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("seconds_per_row", [0.0, LONGEST_SECONDS], ids=["fast", "slow"])
def test_it_answers_as_the_engine_does_and_rests_after_each_run(seconds_per_row: float) -> None:
    engine, rests = Doubling(seconds_per_row), list[float]()
    unhurried = Unhurried(engine, rests.append)
    rows = np.arange(60, dtype=np.float32).reshape(20, 3)
    np.testing.assert_array_equal(unhurried.run(rows), 2 * rows)
    assert sum(engine.batches) == 20
    assert len(rests) == len(engine.batches)
    assert sum(rests) >= engine.seconds * (1 / SHARE - 1)


def test_a_slow_engine_gets_one_row_at_a_time() -> None:
    engine = Doubling(LONGEST_SECONDS)
    Unhurried(engine, lambda seconds: None).run(np.zeros((5, 1), np.float32))
    assert engine.batches == [1] * 5


def test_closing_it_closes_the_engine() -> None:
    engine = Doubling(0.0)
    Unhurried(engine).close()
    assert engine.closed
