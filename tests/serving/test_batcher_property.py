"""Any story of submissions, cancellations, failures and changes of policy: no answer goes to somebody else."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from batchyard.endpoint.errors import DeadlineError, OverloadedError
from batchyard.serving.batcher import BatchError
from batchyard.serving.batching import BatchPolicy
from tests.serving.batch_bench import MAX_BATCH, Bench, answer_to, policy_of, rows_of

SUBMIT = st.tuples(
    st.just("submit"), st.integers(1, 20), st.sampled_from([None, None, None, 0.0, 0.001]), st.integers(0, 4)
)
CANCEL = st.tuples(st.just("cancel"), st.integers(0, 30), st.none(), st.just(0))
LET = st.tuples(st.just("let"), st.integers(1, 2), st.none(), st.just(0))
FAIL = st.tuples(st.just("fail"), st.integers(1, 3), st.none(), st.just(0))
POISON = st.tuples(st.just("poison"), st.integers(0, 30), st.none(), st.just(0))
TURN = st.tuples(st.just("turn"), st.integers(1, 3), st.none(), st.just(0))
POLICY = st.builds(
    policy_of,
    max_batch=st.integers(1, MAX_BATCH),
    queue_delay=st.sampled_from([0.0, 0.0, 0.002]),
    preferred=st.sampled_from([(), (2, 4), (8,)]),
    levels=st.integers(1, 4),
    default_level=st.just(1),
)
CHANGE = st.tuples(st.just("change"), POLICY, st.none(), st.just(0))
Step = tuple[str, Any, float | None, int]


@settings(max_examples=150, deadline=None)
@given(POLICY, st.lists(st.one_of(SUBMIT, SUBMIT, SUBMIT, CANCEL, LET, FAIL, POISON, TURN, CHANGE), max_size=40),
       st.booleans())  # fmt: skip
def test_whatever_happens_every_caller_gets_its_own_rows_or_an_error(
    policy: BatchPolicy, steps: list[Step], inline: bool
) -> None:
    asyncio.run(_play(policy, steps, inline))


async def _play(policy: BatchPolicy, steps: list[Step], inline: bool) -> None:
    with ThreadPoolExecutor(1) as executor:
        bench = Bench(executor, inline)
        bench.batcher.change(policy, bench.plan)
        if inline:
            bench.engine.let(1000)
        calls: list[tuple[NDArray[np.float32], asyncio.Task[NDArray[np.float32]]]] = []
        now = asyncio.get_running_loop().time
        for number, (step, amount, seconds, level) in enumerate(steps):
            if step == "submit":
                rows, time = rows_of(amount, number), None if seconds is None else now() + seconds
                late = level == 4  # every fifth is late instead of refused
                terms = (None, 0, time) if late else (time, level, None)
                calls.append((rows, bench.submit(rows, *terms)))
            elif step == "cancel" and amount < len(calls):
                calls[amount][1].cancel()
            elif step == "let":
                bench.engine.let(amount)
            elif step == "fail":
                bench.engine.fail_next = amount
            elif step == "poison":
                bench.engine.poison = rows_of(1, amount)[0, 0]
            elif step == "change":
                bench.batcher.change(amount, bench.plan)
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
        assert all(size <= 20 for size in bench.engine.batches)
