"""A shadow costs callers next to nothing: it waits for nobody, holds little, and drops what it cannot do."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import batchyard.serving.shadow
from batchyard.serving.engines.interface import EngineError
from batchyard.serving.request_queue import Scores
from batchyard.serving.shadow import MOST_ROWS, WAITING_ROWS, Shadow
from batchyard.serving.shadow_comparison import Comparison, compare
from tests.serving.harness import until


class EngineByHand:
    """Answers a row's own values, all together, once `gate` is open."""

    name = "by hand"

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.largest = 0
        self.closed = threading.Event()

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        assert self.gate.wait(30)
        self.largest = max(self.largest, len(rows))
        if np.any(rows < 0):
            raise EngineError("a negative pixel")
        return rows.copy()

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def beside(engine: EngineByHand, executor: ThreadPoolExecutor, share: float = 1.0) -> Shadow:
    return Shadow("2", share, (2,), lambda: engine, executor)


def ask(shadow: Shadow, rows: NDArray[Any], answers: Scores | Exception | None = None) -> list[Any]:
    """What a caller gets whose answers are these; the rows themselves if none are given."""
    got: list[Any] = []
    shadow.copied(rows, got.append)(rows.astype(np.float32) if answers is None else answers)
    return got


def some(rows: int, value: float = 1.0) -> NDArray[np.float32]:
    return np.full((rows, 2), value, np.float32)


async def test_callers_are_answered_while_the_shadow_hangs_and_what_waits_is_bounded(
    executor: ThreadPoolExecutor,
) -> None:
    engine = EngineByHand()
    shadow = beside(engine, executor)
    for _ in range(WAITING_ROWS + 100):
        (answer,) = ask(shadow, some(1))
        assert answer.shape == (1, 2)
    held = WAITING_ROWS + 1  # and the one that runs
    assert shadow.report().dropped_rows == WAITING_ROWS + 100 - held
    engine.gate.set()
    await until(lambda: shadow.report().compared.rows == held, "what was held is compared")
    assert engine.largest <= MOST_ROWS
    assert shadow.report().compared.agreeing == held
    shadow.close()


async def test_rows_are_copied_before_the_caller_may_write_into_them_again(executor: ThreadPoolExecutor) -> None:
    engine = EngineByHand()
    engine.gate.set()
    shadow = beside(engine, executor)
    rows = some(3)

    def answered(outcome: Scores | Exception) -> None:
        rows[:] = -1.0

    shadow.copied(rows, answered)(rows.copy())
    await until(lambda: shadow.report().compared.rows == 3, "the copies are compared")
    assert shadow.report().compared.largest == 0.0
    shadow.close()


async def test_a_run_that_fails_is_counted_and_the_next_is_compared(
    executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchyard.serving.shadow.REST_AFTER_FAILURE_SECONDS", 0.0)
    engine = EngineByHand()
    engine.gate.set()
    shadow = beside(engine, executor)
    assert len(ask(shadow, some(2, value=-1.0))) == 1
    await until(lambda: shadow.report().failed_rows == 2, "the failure is counted")
    assert shadow.report().failure == "a negative pixel"
    ask(shadow, some(4))
    await until(lambda: shadow.report().compared.rows == 4, "the next is compared")
    shadow.close()


async def test_requests_that_fail_are_not_copied(executor: ThreadPoolExecutor) -> None:
    shadow = beside(EngineByHand(), executor)
    error = RuntimeError("no answer")
    assert ask(shadow, some(2), error) == [error]
    report = shadow.report()
    assert (report.compared, report.dropped_rows, report.failed_rows) == (Comparison(), 0, 0)
    assert (report.mean_difference, report.seconds_per_row) == (None, None)
    shadow.close()


async def test_the_engine_is_freed_after_the_run_under_way(executor: ThreadPoolExecutor) -> None:
    engine = EngineByHand()
    shadow = beside(engine, executor)
    ask(shadow, some(2))
    shadow.close()
    assert not engine.closed.is_set()
    engine.gate.set()
    await until(engine.closed.is_set, "the engine is freed")
    ask(shadow, some(2))
    assert shadow.report().compared == Comparison()


async def test_a_core_lost_right_beside_the_run_leaves_the_engine_seconds_of_its_own(
    executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a thread waits for a core may lie before the run, in it or after it."""
    lost = 0.0

    def loses_a_core() -> float:
        nonlocal lost
        began = time.perf_counter()
        while (waited := time.perf_counter() - began) < 0.002:
            pass
        lost += waited
        return lost

    monkeypatch.setattr(batchyard.serving.shadow, "_waited", loses_a_core)
    engine = EngineByHand()
    engine.gate.set()
    shadow = beside(engine, executor)
    ask(shadow, some(1))
    await until(lambda: shadow.report().compared.rows == 1, "the copy is compared")
    assert shadow.report().compared.seconds > 0
    shadow.close()


async def test_a_share_is_a_chance(executor: ThreadPoolExecutor) -> None:
    shadow = beside(EngineByHand(), executor, share=0.25)
    answer: Any = object()
    copied = sum(shadow.copied(some(1), answer) is not answer for _ in range(8000))
    assert copied == pytest.approx(2000, abs=250)


def test_differences_add_up_and_what_is_not_finite_is_left_out() -> None:
    ours = np.array([[0, 3, 0], [1, 0, 0], [np.inf, 0, 0]], np.float32)
    theirs = np.array([[0, 1, 0], [0, 1, 0], [0, 0, 0]], np.float32)
    found = compare(ours, theirs, requests=2, seconds=0.5)
    assert (found.requests, found.rows, found.agreeing, found.not_finite) == (2, 2, 1, 1)
    assert found.difference == pytest.approx(2 / 3 + 2 / 3)
    assert found.largest == 2.0
    twice = found + found
    assert (twice.rows, twice.difference, twice.largest, twice.seconds) == (4, 2 * found.difference, 2.0, 1.0)
