"""Sampling costs inference next to nothing: chosen by chance, bounded, dropped and counted when the probe is busy."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from batchyard.artifact.manifest import ProbedLayer, ProbeRecord
from batchyard.serving.shift_monitor import WAITING_ROWS, ShiftMonitor
from batchyard.serving.shift_probe import ProbeError
from batchyard.serving.shift_sampler import ROWS_OF_A_REQUEST, Chooser, RowStore, copy_of_some
from tests.serving.harness import until

RECORD = ProbeRecord(layers=(ProbedLayer(layer="norm", channels=(0, 1)),))


class ProbeByHand:
    """A row's own two values are its means; it waits for `gate`."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.threads: set[int] = set()

    def run(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        self.threads.add(threading.get_ident())
        assert self.gate.wait(30)
        return np.stack([rows, rows * rows], axis=1).astype(np.float32)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def monitored(probe: Any, executor: ThreadPoolExecutor, rate: float = 1.0) -> ShiftMonitor:
    return ShiftMonitor("'mnist' version 1", RECORD, lambda: probe, rate, executor, keep_rows=100)


def test_every_request_is_chosen_with_the_same_chance() -> None:
    chooser = Chooser(0.01, seed=1)
    chosen = [chooser.chosen() for _ in range(100_000)]
    assert sum(chosen) == pytest.approx(1000, abs=100)
    gaps = np.diff(np.flatnonzero(chosen))
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.15)  # geometric, not every hundredth
    assert all(Chooser(1.0).chosen() for _ in range(10))


def test_a_large_request_gives_a_few_rows_evenly_spaced_and_copied() -> None:
    rows = np.arange(1000, dtype=np.float32).reshape(-1, 1)
    some = copy_of_some(rows)
    assert len(some) <= ROWS_OF_A_REQUEST
    assert np.unique(np.diff(some[:, 0])).size == 1
    assert not np.shares_memory(some, rows)
    assert len(copy_of_some(rows[:3])) == 3


def test_a_store_is_bounded_in_rows_and_bytes() -> None:
    store = RowStore(most_rows=10, most_bytes=64)
    for value in range(8):
        store.add_newest(np.full((2, 4), value, np.uint8))  # 8 bytes each
    assert store.rows == 10
    assert store.newest(100)[:, 0].tolist() == [3, 3, 4, 4, 5, 5, 6, 6, 7, 7]
    assert store.newest(3)[:, 0].tolist() == [6, 7, 7]
    assert not store.has_room(np.zeros((1, 4), np.uint8))
    store.add_newest(np.zeros((1, 65), np.uint8))  # larger than all the room there is
    assert store.rows == 0


async def test_what_is_offered_is_measured_on_another_thread(executor: ThreadPoolExecutor) -> None:
    probe = ProbeByHand()
    monitor = monitored(probe, executor)
    random = np.random.default_rng(0)
    for _ in range(60):
        monitor.offer(random.standard_normal((4, 2)).astype(np.float32) + np.float32(2))
    await until(lambda: monitor.report().rows == 240, "240 rows are measured")
    (layer,) = monitor.report().layers
    assert layer.shifts is not None
    assert layer.shifts.mean_shift == pytest.approx(2, abs=0.3)
    assert layer.shift == pytest.approx(4, rel=0.3)
    assert threading.get_ident() not in probe.threads
    assert monitor.report().dropped_rows == 0


async def test_while_the_probe_is_busy_a_bounded_number_waits_and_the_rest_is_dropped_and_counted(
    executor: ThreadPoolExecutor,
) -> None:
    probe = ProbeByHand()
    probe.gate.clear()
    monitor = monitored(probe, executor)
    for _ in range(WAITING_ROWS):
        monitor.offer(np.zeros((2, 2), np.float32))
    report = monitor.report()
    assert report.rows == 0
    assert report.dropped_rows == WAITING_ROWS - 2  # half of them, but for those that are being measured
    assert len(monitor.newest_rows(1000)) == 100
    probe.gate.set()
    await until(lambda: monitor.report().rows == WAITING_ROWS + 2, "what waited is measured")


async def test_rows_that_give_no_finite_numbers_are_left_out_and_counted(executor: ThreadPoolExecutor) -> None:
    monitor = monitored(ProbeByHand(), executor)
    for value in (1.0, np.nan, np.inf, 2.0):
        monitor.offer(np.full((1, 2), value, np.float32))
    await until(lambda: monitor.report().rows == 2, "the finite rows are measured")
    await until(lambda: monitor.report().not_finite_rows == 2, "the others are counted")


async def test_a_probe_that_fails_ends_the_measuring_and_says_why(executor: ThreadPoolExecutor) -> None:
    def broken() -> Any:
        raise ProbeError("ONNX Runtime cannot load probe.onnx: garbage")

    monitor = ShiftMonitor("'mnist' version 1", RECORD, broken, 1.0, executor, keep_rows=0)
    monitor.offer(np.zeros((1, 2), np.float32))
    await until(lambda: bool(monitor.report().failure), "the failure is known")
    assert "garbage" in monitor.report().failure
    monitor.offer(np.zeros((1, 2), np.float32))
    assert monitor.report().dropped_rows == 0


async def test_a_closed_monitor_takes_nothing(executor: ThreadPoolExecutor) -> None:
    monitor = monitored(ProbeByHand(), executor)
    monitor.close()
    monitor.offer(np.zeros((1, 2), np.float32))
    assert monitor.newest_rows(10).size == 0
