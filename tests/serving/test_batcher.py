"""The batcher with an engine that the test holds and lets go: who waits, who goes together, who is told no."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from batchyard.endpoint.errors import DeadlineError, OverloadedError, UnavailableError
from batchyard.serving.batcher import Batcher, BatchError, BatchPlan
from tests.serving.harness import until

FEATURES = 3
MAX_BATCH = 8
QUEUE_ROWS = 40


class HeldEngine:
    """Runs a batch only when the test lets it; the answer to a row is twice its first value and its last."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.fail_next = False
        self._permits = threading.Semaphore(0)
        self.started = 0

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        self.started += 1
        assert self._permits.acquire(timeout=30), "the test never let the engine run"
        self.batches.append(len(rows))
        if self.fail_next:
            self.fail_next = False
            raise MemoryError("no room")
        return np.stack([rows[:, 0] * 2, rows[:, -1]], axis=1)

    def let(self, batches: int = 1) -> None:
        self._permits.release(batches)


class Observed:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.waits: list[float] = []

    def batch_ran(self, rows: int, seconds: float) -> None:
        self.rows.append(rows)

    def request_waited(self, seconds: float) -> None:
        self.waits.append(seconds)


class Bench:
    """A batcher over a held engine."""

    def __init__(self, executor: ThreadPoolExecutor, inline: bool = False) -> None:
        self.engine = HeldEngine()
        self.observed = Observed()
        plan = BatchPlan(
            model="'m' version 1", row_shape=(FEATURES,), max_batch=MAX_BATCH, queue_rows=QUEUE_ROWS, inline=inline
        )
        self.batcher = Batcher(self.engine.run, plan, executor, self.observed)

    def submit(self, rows: NDArray[Any], deadline: float | None = None) -> asyncio.Task[NDArray[np.float32]]:
        return asyncio.create_task(self.batcher.submit(rows, deadline))

    async def occupy(self) -> asyncio.Task[NDArray[np.float32]]:
        """A request that keeps the engine busy until it is let."""
        task = self.submit(rows_of(1, 999))
        started = self.engine.started
        await until(lambda: self.engine.started > started, "the engine runs")
        return task

    async def until_queued(self, rows: int) -> None:
        await until(lambda: self.batcher.queued_rows == rows, f"{rows} rows wait")


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    with ThreadPoolExecutor(2) as executor:
        bench = Bench(executor)
        yield bench
        bench.engine.let(1000)
        await bench.batcher.drain()


def rows_of(count: int, start: int) -> NDArray[np.float32]:
    """Rows that no other start gives."""
    return (np.arange(count * FEATURES, dtype=np.float32) + start * 100).reshape(count, FEATURES)


def answer_to(rows: NDArray[Any]) -> NDArray[np.float32]:
    return np.stack([rows[:, 0].astype(np.float32) * 2, rows[:, -1].astype(np.float32)], axis=1)


async def test_an_idle_engine_takes_a_request_at_once(bench: Bench) -> None:
    bench.engine.let()
    np.testing.assert_array_equal(await bench.batcher.submit(rows_of(1, 1)), answer_to(rows_of(1, 1)))
    assert bench.engine.batches == [1]


async def test_while_the_engine_is_busy_requests_gather_into_one_batch(bench: Bench) -> None:
    first = await bench.occupy()
    others = [bench.submit(rows_of(2, start)) for start in range(3)]
    await bench.until_queued(6)
    bench.engine.let(2)
    for start, task in enumerate(others):
        np.testing.assert_array_equal(await task, answer_to(rows_of(2, start)))
    await first
    assert bench.engine.batches == bench.observed.rows == [1, 6]
    assert len(bench.observed.waits) == 4


async def test_a_batch_is_never_larger_than_the_bound_and_keeps_the_order_of_arrival(bench: Bench) -> None:
    await bench.occupy()
    tasks = [bench.submit(rows_of(3, start)) for start in range(4)]
    await bench.until_queued(12)
    bench.engine.let(3)
    await asyncio.gather(*tasks)
    assert bench.engine.batches == [1, 6, 6]


async def test_integer_pixels_are_cast_on_their_way_into_the_batch(bench: Bench) -> None:
    bench.engine.let()
    pixels = np.array([[255, 1, 2]], np.uint8)
    np.testing.assert_array_equal(await bench.batcher.submit(pixels), [[510, 2]])


async def test_a_request_larger_than_a_batch_is_split_and_joined_in_order(bench: Bench) -> None:
    bench.engine.let(3)
    rows = rows_of(20, 1)
    np.testing.assert_array_equal(await bench.batcher.submit(rows), answer_to(rows))
    assert bench.engine.batches == [8, 8, 4]


async def test_a_deadline_that_passes_in_the_queue_is_told_while_the_engine_still_runs(bench: Bench) -> None:
    await bench.occupy()
    late = bench.submit(rows_of(1, 1), deadline=asyncio.get_running_loop().time() + 0.02)
    with pytest.raises(DeadlineError, match="'m' version 1"):
        await asyncio.wait_for(late, 10)
    assert bench.engine.batches == []
    assert bench.batcher.queued_rows == 0


async def test_a_deadline_that_has_passed_on_arrival_is_told_at_once(bench: Bench) -> None:
    with pytest.raises(DeadlineError):
        await bench.batcher.submit(rows_of(1, 1), asyncio.get_running_loop().time() - 1)


async def test_a_cancelled_request_leaves_the_queue(bench: Bench) -> None:
    await bench.occupy()
    leaving, staying = bench.submit(rows_of(4, 1)), bench.submit(rows_of(2, 2))
    await bench.until_queued(6)
    leaving.cancel()
    await bench.until_queued(2)
    bench.engine.let(2)
    np.testing.assert_array_equal(await staying, answer_to(rows_of(2, 2)))
    assert bench.engine.batches == [1, 2]


async def test_a_large_request_that_is_cancelled_takes_all_its_parts_along(bench: Bench) -> None:
    await bench.occupy()
    leaving = bench.submit(rows_of(30, 1))
    await bench.until_queued(30)
    leaving.cancel()
    await bench.until_queued(0)


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(bench: Bench) -> None:
    await bench.occupy()
    waiting = bench.submit(rows_of(QUEUE_ROWS, 1))
    await bench.until_queued(QUEUE_ROWS)
    with pytest.raises(OverloadedError, match=r"'m' version 1.*40 rows wait") as caught:
        await bench.batcher.submit(rows_of(1, 2))
    assert 0 < caught.value.retry_after <= 5
    bench.engine.let(10)
    np.testing.assert_array_equal(await waiting, answer_to(rows_of(QUEUE_ROWS, 1)))


async def test_a_batch_that_fails_fails_its_own_callers_only(bench: Bench) -> None:
    first = await bench.occupy()
    same = [bench.submit(rows_of(4, start)) for start in range(2)]
    after = bench.submit(rows_of(1, 9))
    await bench.until_queued(9)
    bench.engine.let()
    await first
    bench.engine.fail_next = True
    bench.engine.let(2)
    failures = await asyncio.gather(*same, return_exceptions=True)
    assert [type(failure) for failure in failures] == [BatchError, BatchError]
    assert failures[0] is not failures[1]
    assert isinstance(failures[0], BatchError)
    assert isinstance(failures[0].__cause__, MemoryError)
    np.testing.assert_array_equal(await after, answer_to(rows_of(1, 9)))


async def test_draining_answers_what_is_queued_and_refuses_what_comes(bench: Bench) -> None:
    await bench.occupy()
    queued = bench.submit(rows_of(2, 1))
    await bench.until_queued(2)
    draining = asyncio.create_task(bench.batcher.drain())
    await asyncio.sleep(0)
    with pytest.raises(UnavailableError):
        await bench.batcher.submit(rows_of(1, 2))
    assert not draining.done()
    bench.engine.let(2)
    await draining
    np.testing.assert_array_equal(await queued, answer_to(rows_of(2, 1)))


async def test_draining_waits_for_an_engine_whose_callers_have_all_left(bench: Bench) -> None:
    leaving = await bench.occupy()
    leaving.cancel()
    draining = asyncio.create_task(bench.batcher.drain())
    await asyncio.wait([leaving])
    await asyncio.sleep(0)
    assert not draining.done()
    bench.engine.let()
    await draining


SUBMIT = st.tuples(st.just("submit"), st.integers(1, 20), st.sampled_from([None, None, None, 0.0, 0.001]))
CANCEL = st.tuples(st.just("cancel"), st.integers(0, 30), st.none())
LET = st.tuples(st.just("let"), st.integers(1, 2), st.none())
FAIL = st.tuples(st.just("fail"), st.just(0), st.none())
TURN = st.tuples(st.just("turn"), st.integers(1, 3), st.none())


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(SUBMIT, SUBMIT, SUBMIT, CANCEL, LET, FAIL, TURN), max_size=40), st.booleans())
def test_whatever_happens_every_caller_gets_its_own_rows_or_an_error(
    steps: list[tuple[str, int, float | None]], inline: bool
) -> None:
    asyncio.run(_play(steps, inline))


async def _play(steps: list[tuple[str, int, float | None]], inline: bool) -> None:
    with ThreadPoolExecutor(1) as executor:
        bench = Bench(executor, inline)
        if inline:
            bench.engine.let(1000)
        calls: list[tuple[NDArray[np.float32], asyncio.Task[NDArray[np.float32]]]] = []
        for number, (step, amount, seconds) in enumerate(steps):
            if step == "submit":
                deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
                rows = rows_of(amount, number)
                calls.append((rows, bench.submit(rows, deadline)))
            elif step == "cancel" and amount < len(calls):
                calls[amount][1].cancel()
            elif step == "let":
                bench.engine.let(amount)
            elif step == "fail":
                bench.engine.fail_next = True
            for _ in range(amount if step == "turn" else 0):
                await asyncio.sleep(0)
        bench.engine.let(1000)
        outcomes = await asyncio.gather(*(task for _, task in calls), return_exceptions=True)
        for (rows, _), outcome in zip(calls, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                assert isinstance(outcome, asyncio.CancelledError | DeadlineError | OverloadedError | BatchError)
            else:
                np.testing.assert_array_equal(outcome, answer_to(rows))
        await bench.batcher.drain()
        assert bench.batcher.queued_rows == 0
        assert all(size <= MAX_BATCH for size in bench.engine.batches)
