"""Many callers at once over a real connection: each gets its own rows; too many are told so at once."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from batchyard.serving.engines.onnxruntime_engine import OnnxRuntimeEngine
from batchyard.serving.settings import Limits
from bench.small_artifact import SmallNetwork
from tests.serving.harness import Serving, assert_is_answer, detail, reason_of, refusal, request_for, until

NETWORK = SmallNetwork(seed=1)
SLOW = SmallNetwork(seed=1, hidden=(1000, 1000))
"""About half a millisecond a row: runs on a thread of its own, and can be caught waiting."""


@pytest.mark.parametrize("inline_below", [1.0, 0.0], ids=["on the loop", "on a thread"])
async def test_every_caller_gets_its_own_rows_among_cancellations_and_deadlines(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, inline_below: float
) -> None:
    monkeypatch.setattr("batchyard.serving.model.INLINE_BELOW_SECONDS", inline_below)
    await serving.start(limits=Limits(max_batch=16))
    serving.wish(serving.version(1))
    await serving.until_version(1)
    rng = random.Random(3)
    outcomes = {"answered": 0, "cancelled": 0, "too late": 0}

    async def call(seed: int) -> None:
        pixels = NETWORK.pixels(rng.choice([1, 1, 2, 3, 16, 17, 40]), seed)
        timeout = rng.choice([60, 60, 60, 0.002])
        task = asyncio.ensure_future(serving.infer(pixels, timeout=timeout))
        if rng.random() < 0.2:
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
            task.cancel()
        try:
            logits = await task
        except asyncio.CancelledError:
            outcomes["cancelled"] += 1
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED or timeout > 1:
                raise
            outcomes["too late"] += 1
        else:
            assert_is_answer(logits, NETWORK, pixels)
            outcomes["answered"] += 1

    async def caller(first: int) -> None:
        for seed in range(first, first + 8):
            await call(seed)

    await asyncio.gather(*(caller(8 * number) for number in range(25)))
    assert outcomes["answered"] > 80
    assert outcomes["cancelled"] > 10
    await until(lambda: only_version(serving).batcher.queued_rows == 0, "nothing is left behind in the queue")


async def test_what_the_queue_cannot_hold_is_refused_at_once_with_a_time_to_come_back(serving: Serving) -> None:
    await serving.start(limits=Limits(max_batch=1, queue_rows=300))
    serving.wish(serving.version(1, SLOW))
    await serving.until_version(1)
    pixels = SLOW.pixels(300)
    filling = asyncio.ensure_future(serving.infer(pixels))
    await until(lambda: only_version(serving).batcher.queued_rows > 100, "the queue is full")
    code, message, status = await refusal(serving.infer(pixels))
    assert not filling.done()
    assert (code, reason_of(status)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert "'mnist' version 1" in message
    delay = detail(status, error_details_pb2.RetryInfo).retry_delay
    assert 0.01 <= delay.ToTimedelta().total_seconds() <= 5
    assert_is_answer(await filling, SLOW, pixels)
    assert_is_answer(await serving.infer(pixels), SLOW, pixels)


async def test_of_many_that_are_refused_at_the_same_time_each_is_told_when_to_come_back(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchyard.serving.model.INLINE_BELOW_SECONDS", 0.0)
    await serving.start(limits=Limits(max_batch=1, queue_rows=300))
    serving.wish(serving.version(1, SLOW))
    await serving.until_version(1)
    held, run = threading.Event(), OnnxRuntimeEngine.run
    monkeypatch.setattr(OnnxRuntimeEngine, "run", lambda engine, rows: held.wait(60) and run(engine, rows))
    pixels = SLOW.pixels(300)
    filling = asyncio.ensure_future(serving.infer(pixels))
    await until(lambda: only_version(serving).batcher.queued_rows == 299, "the queue is full")
    refusals = await asyncio.gather(*(refusal(serving.infer(pixels[:2])) for _ in range(300)))
    for code, _, status in refusals:
        assert (code, reason_of(status)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert detail(status, error_details_pb2.RetryInfo).retry_delay.ToTimedelta().total_seconds() > 0
    assert only_version(serving).metrics.failures["RESOURCE_EXHAUSTED"] == 300
    assert not filling.done()
    held.set()
    assert_is_answer(await filling, SLOW, pixels)
    assert_is_answer(await serving.infer(pixels[:2]), SLOW, pixels[:2])


async def test_a_client_that_leaves_takes_its_request_out_of_the_queue(serving: Serving) -> None:
    await serving.start(limits=Limits(max_batch=1))
    serving.wish(serving.version(1, SLOW))
    await serving.until_version(1)
    call = serving.stub.ModelInfer(request_for(SLOW.pixels(3000)))
    await until(lambda: only_version(serving).batcher.queued_rows > 0, "the request waits")
    call.cancel()
    await until(lambda: only_version(serving).batcher.queued_rows == 0, "the queue is empty")
    assert only_version(serving).metrics.failures["CANCELLED"] == 1


async def test_stopping_answers_what_is_in_flight(serving: Serving) -> None:
    await serving.start(limits=Limits(max_batch=1))
    serving.wish(serving.version(1, SLOW))
    await serving.until_version(1)
    pixels = SLOW.pixels(100)
    call = asyncio.ensure_future(serving.infer(pixels))
    await until(lambda: only_version(serving).batcher.queued_rows > 0, "the request waits")
    await serving.plane.stop()
    assert_is_answer(await call, SLOW, pixels)


def only_version(serving: Serving) -> Any:
    return serving.plane.repository.resolve("mnist", "1")
