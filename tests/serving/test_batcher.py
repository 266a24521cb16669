"""The batcher with an engine that the test holds and lets go: who waits, who goes together, who is told no."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from batchyard.endpoint.errors import DeadlineError, OverloadedError, UnavailableError
from batchyard.serving.batcher import BatchError
from batchyard.serving.suspects import MOST_RUNS
from tests.serving.batch_bench import QUEUE_ROWS, Bench, answer_to, rows_of
from tests.serving.harness import until


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
    failing = await bench.occupy()
    after = bench.submit(rows_of(1, 9))
    await bench.until_queued(1)
    bench.engine.fail_next = 1
    bench.engine.let(2)
    with pytest.raises(BatchError, match="'m' version 1: MemoryError") as caught:
        await failing
    assert isinstance(caught.value.__cause__, MemoryError)
    np.testing.assert_array_equal(await after, answer_to(rows_of(1, 9)))


async def test_only_the_guilty_request_of_a_batch_fails(bench: Bench) -> None:
    first = await bench.occupy()
    tasks = [bench.submit(rows_of(1, start)) for start in range(8)]
    await bench.until_queued(8)
    bench.engine.poison = rows_of(1, 5)[0, 0]
    bench.engine.let(100)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [start for start, outcome in enumerate(outcomes) if isinstance(outcome, BatchError)] == [5]
    for start in {*range(8)} - {5}:
        np.testing.assert_array_equal(outcomes[start], answer_to(rows_of(1, start)))
    await first
    assert bench.engine.batches == [1, 8, 4, 4, 2, 1, 1, 2]


async def test_an_engine_that_fails_always_is_not_asked_without_end(bench: Bench) -> None:
    bench.change(max_batch=QUEUE_ROWS)
    first = await bench.occupy()
    tasks = [bench.submit(rows_of(1, start)) for start in range(QUEUE_ROWS)]
    await bench.until_queued(QUEUE_ROWS)
    bench.engine.let()
    await first
    bench.engine.fail_next = 1000
    bench.engine.let(1000)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {BatchError}
    assert len({id(outcome) for outcome in outcomes}) == QUEUE_ROWS  # an error of each caller's own
    assert len(bench.engine.batches) <= 2 + MOST_RUNS


async def test_the_callers_of_a_failed_batch_who_have_left_are_not_tried_again(bench: Bench) -> None:
    first = await bench.occupy()
    leaving, staying = bench.submit(rows_of(3, 1)), bench.submit(rows_of(2, 2))
    await bench.until_queued(5)
    bench.engine.let()
    await first
    await until(lambda: bench.engine.started == 2, "the batch of both runs")
    leaving.cancel()
    bench.engine.fail_next = 1
    bench.engine.let(2)
    np.testing.assert_array_equal(await staying, answer_to(rows_of(2, 2)))
    assert bench.engine.batches == [1, 5, 2]


async def test_a_queue_without_room_for_a_row_has_one_refusal_for_all_until_it_moves(bench: Bench) -> None:
    running = await bench.occupy()
    bench.submit(rows_of(QUEUE_ROWS - 1, 1))
    await bench.until_queued(QUEUE_ROWS - 1)
    assert bench.batcher.refusal is None
    last = bench.submit(rows_of(1, 2))
    await bench.until_queued(QUEUE_ROWS)
    refusal = bench.batcher.refusal
    assert refusal is not None
    assert (refusal.reason, refusal.metadata) == ("QUEUE_FULL", {"model": "'m' version 1"})
    assert bench.batcher.refusal is refusal
    last.cancel()
    await bench.until_queued(QUEUE_ROWS - 1)
    assert bench.batcher.refusal is None
    bench.engine.let(1000)
    await running


async def test_where_priorities_may_displace_nobody_is_refused_unread(bench: Bench) -> None:
    bench.change(levels=2)
    running = await bench.occupy()
    bench.submit(rows_of(QUEUE_ROWS, 1))
    await bench.until_queued(QUEUE_ROWS)
    assert bench.batcher.refusal is None
    bench.engine.let(1000)
    await running


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
