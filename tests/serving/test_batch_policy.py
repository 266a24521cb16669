"""What a model's settings change: who waits for company, who goes first, what becomes of those who are late."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from batchyard.endpoint.errors import DeadlineError, OverloadedError
from batchyard.serving.batching import ModelSettings, make_policy
from batchyard.serving.naming import WantedModel
from batchyard.serving.request_queue import SECONDS_PER_LEVEL
from batchyard.serving.settings import Limits
from batchyard.serving.state import State, StateFile
from tests.serving.batch_bench import MAX_BATCH, QUEUE_ROWS, Bench, answer_to, rows_of
from tests.serving.harness import until

LONG = 30.0
"""Seconds that no test takes."""


def now() -> float:
    return asyncio.get_running_loop().time()


async def order_of_answers(bench: Bench, *requests: tuple[int, dict[str, float]]) -> list[int]:
    """Queues one row for each (start, terms) behind a busy engine; the starts in the order of their batches of one."""
    bench.change(max_batch=1, levels=3, default_level=2)
    first = await bench.occupy()
    answered: list[int] = []
    tasks = []

    async def ask(start: int, terms: dict[str, float]) -> None:
        await bench.submit(rows_of(1, start), **terms)
        answered.append(start)

    for start, terms in requests:
        tasks.append(asyncio.create_task(ask(start, terms)))
        await bench.until_queued(len(tasks))
    await until_late(bench, requests)
    bench.engine.let(100)
    await asyncio.gather(first, *tasks)
    return answered


async def until_late(bench: Bench, requests: tuple[tuple[int, dict[str, float]], ...]) -> None:
    last = max([terms.get("late_at", 0.0) for _, terms in requests])
    await until(lambda: now() > last, "every timeout has passed")
    await asyncio.sleep(0)


async def test_with_a_delay_a_request_waits_for_company_and_a_full_batch_does_not(bench: Bench) -> None:
    bench.change(queue_delay=LONG)
    bench.engine.let(100)
    early = bench.submit(rows_of(3, 1))
    await bench.until_queued(3)
    for _ in range(20):
        await asyncio.sleep(0)
    assert bench.engine.batches == []
    late = bench.submit(rows_of(5, 2))
    await asyncio.gather(early, late)
    assert bench.engine.batches == [8]


async def test_the_delay_is_counted_from_the_oldest_request_and_then_ends(bench: Bench) -> None:
    bench.change(queue_delay=0.02)
    bench.engine.let(100)
    began = now()
    await asyncio.wait_for(bench.submit(rows_of(1, 1)), 10)
    assert now() - began >= 0.02
    assert bench.engine.batches == [1]


async def test_a_deadline_shortens_the_wait_for_company_so_that_it_is_met(bench: Bench) -> None:
    bench.change(queue_delay=LONG)
    bench.engine.let()
    await bench.submit(rows_of(1, 1), now() + 0.2)
    assert bench.engine.batches == [1]


async def test_whoever_leaves_while_waiting_for_company_leaves_nothing_behind(bench: Bench) -> None:
    bench.change(queue_delay=LONG)
    leaving = bench.submit(rows_of(1, 1))
    await bench.until_queued(1)
    leaving.cancel()
    await bench.until_queued(0)
    bench.change(queue_delay=0.0)
    bench.engine.let()
    np.testing.assert_array_equal(await bench.submit(rows_of(2, 2)), answer_to(rows_of(2, 2)))
    assert bench.engine.batches == [2]


async def test_a_delay_that_is_taken_away_ends_the_wait_at_once(bench: Bench) -> None:
    bench.change(queue_delay=LONG)
    waiting = bench.submit(rows_of(1, 1))
    await bench.until_queued(1)
    await asyncio.sleep(0)
    bench.engine.let()
    bench.change(queue_delay=0.0)
    await asyncio.wait_for(waiting, 10)


async def test_draining_does_not_wait_for_company(bench: Bench) -> None:
    bench.change(queue_delay=LONG)
    waiting = bench.submit(rows_of(1, 1))
    await bench.until_queued(1)
    bench.engine.let()
    await asyncio.wait_for(bench.batcher.drain(), 10)
    np.testing.assert_array_equal(await waiting, answer_to(rows_of(1, 1)))


async def test_a_batch_ends_at_the_largest_preferred_size_that_whole_requests_make(bench: Bench) -> None:
    bench.change(preferred=(4, 6))
    first = await bench.occupy()
    tasks = [bench.submit(rows_of(count, start)) for start, count in enumerate((1, 3, 1, 2))]
    await bench.until_queued(7)
    bench.engine.let(100)
    await asyncio.gather(first, *tasks)
    assert bench.engine.batches == [1, 4, 3]  # 1+3 is preferred; 6 cannot be had; 3 is all that is left


async def test_without_a_delay_a_size_that_nobody_prefers_is_not_waited_with(bench: Bench) -> None:
    bench.change(preferred=(4,))
    bench.engine.let()
    await bench.submit(rows_of(3, 1))
    assert bench.engine.batches == [3]


async def test_a_preferred_size_ends_the_wait_for_company(bench: Bench) -> None:
    bench.change(preferred=(2,), queue_delay=LONG)
    bench.engine.let()
    await asyncio.gather(bench.submit(rows_of(1, 1)), bench.submit(rows_of(1, 2)))
    assert bench.engine.batches == [2]


async def test_a_higher_priority_goes_first_and_the_order_of_arrival_holds_within_one(bench: Bench) -> None:
    order = await order_of_answers(
        bench, (1, {"level": 3}), (2, {}), (3, {"level": 1}), (4, {"level": 2}), (5, {"level": 1}), (6, {"level": 3})
    )
    assert order == [3, 5, 2, 4, 1, 6]


async def test_a_level_is_worth_a_second_of_waiting_so_that_nobody_starves(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchyard.serving.request_queue.SECONDS_PER_LEVEL", SECONDS_PER_LEVEL / 100)
    bench.change(max_batch=1, levels=2)
    first = await bench.occupy()
    low = bench.submit(rows_of(1, 1), level=2)
    began = now()
    await until(lambda: now() > began + 0.011, "a hundredth of a second has passed")
    high = bench.submit(rows_of(1, 2), level=1)
    await bench.until_queued(2)
    bench.engine.let(2)
    await asyncio.gather(first, low)
    assert not high.done()
    bench.engine.let()
    await high


async def test_a_late_request_goes_behind_the_others_and_is_answered(bench: Bench) -> None:
    order = await order_of_answers(
        bench, (1, {"late_at": now() + 0.01}), (2, {"level": 3}), (3, {"late_at": now() + LONG / 2**20})
    )
    assert order[0] == 2
    assert sorted(order) == [1, 2, 3]


async def test_a_late_requests_deadline_still_counts(bench: Bench) -> None:
    await bench.occupy()
    late = bench.submit(rows_of(1, 1), deadline=now() + 0.02, late_at=now() + 0.01)
    with pytest.raises(DeadlineError):
        await asyncio.wait_for(late, 10)


async def test_in_a_full_queue_a_higher_priority_takes_the_place_of_the_newest_lowest(bench: Bench) -> None:
    bench.change(levels=3, default_level=3)
    first = await bench.occupy()
    waiting = [bench.submit(rows_of(8, start), level=level) for start, level in enumerate((3, 2, 3, 3, 1))]
    await bench.until_queued(QUEUE_ROWS)
    high = bench.submit(rows_of(9, 9), level=1)
    with pytest.raises(OverloadedError, match="higher priority"):
        await waiting[3]
    with pytest.raises(OverloadedError, match="higher priority"):
        await waiting[2]
    with pytest.raises(OverloadedError, match="would exceed"):
        await bench.submit(rows_of(20, 9), level=2)  # what is lower than it is too little
    bench.engine.let(100)
    for start in (0, 1, 4):
        np.testing.assert_array_equal(await waiting[start], answer_to(rows_of(8, start)))
    np.testing.assert_array_equal(await high, answer_to(rows_of(9, 9)))
    await first


async def test_a_batch_bound_that_falls_leaves_no_waiting_request_stuck(bench: Bench) -> None:
    first = await bench.occupy()
    large, small = bench.submit(rows_of(MAX_BATCH, 1)), bench.submit(rows_of(1, 2))
    await bench.until_queued(MAX_BATCH + 1)
    bench.change(max_batch=2)
    bench.engine.let(100)
    np.testing.assert_array_equal(await large, answer_to(rows_of(MAX_BATCH, 1)))
    np.testing.assert_array_equal(await small, answer_to(rows_of(1, 2)))
    np.testing.assert_array_equal(await bench.submit(rows_of(5, 3)), answer_to(rows_of(5, 3)))
    await first
    assert bench.engine.batches == [1, 8, 1, 2, 2, 1]


async def test_levels_that_are_taken_away_keep_what_waits_in_order_of_arrival(bench: Bench) -> None:
    bench.change(max_batch=1, levels=3)
    first = await bench.occupy()
    low, high = bench.submit(rows_of(1, 1), level=3), bench.submit(rows_of(1, 2), level=1)
    await bench.until_queued(2)
    bench.change(max_batch=1, levels=1)
    bench.engine.let(2)
    await asyncio.gather(first, low)
    assert not high.done()
    bench.engine.let()
    await high


def test_what_is_asked_for_is_done_as_far_as_memory_allows(caplog: pytest.LogCaptureFixture) -> None:
    limits = Limits(max_batch=128, queue_rows=1000, queue_bytes=50_000)
    plain = make_policy(ModelSettings(), limits, 100, "'m' version 1")
    assert (plain.max_batch, plain.queue_rows, plain.queue_delay, plain.levels) == (128, 500, 0.0, 1)
    wanted = ModelSettings(
        max_batch_size=600, preferred_batch_sizes=(64, 600), max_queue_rows=10, priority_levels=4,
        default_timeout_microseconds=1500, timeout_action="DELAY",
    )  # fmt: skip
    policy = make_policy(wanted, limits, 100, "'m' version 1")
    assert (policy.max_batch, policy.queue_rows, policy.preferred) == (500, 500, (64,))
    assert (policy.levels, policy.default_level, policy.timeout, policy.delay_late) == (4, 2, 0.0015, True)
    assert "max_batch_size 600 is served as 500" in caplog.text


@pytest.mark.parametrize("wrong", [{"max_batch_size": 0}, {"priority_levels": -1}, {"timeout_action": "IGNORE"}])
def test_settings_that_cannot_be_are_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ModelSettings(**wrong)  # type: ignore[arg-type]


def test_settings_survive_a_restart_without_the_control_plane(tmp_path: Path) -> None:
    settings = ModelSettings(max_batch_size=4, preferred_batch_sizes=(2, 4), timeout_action="DELAY")
    model = WantedModel(name="mnist", latest=1, aliases={}, versions={}, settings=settings)
    StateFile(tmp_path).write(State(serving=(model,), wanted=(model,)))
    assert StateFile(tmp_path).read() == State(serving=(model,), wanted=(model,))
