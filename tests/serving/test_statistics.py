"""ModelStatistics as tritonclient and perf_analyzer read it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

from bench.small_artifact import SmallNetwork
from tests.serving.harness import Serving, refusal, request_for

PIXELS = SmallNetwork(seed=1).pixels(4)


async def statistics(serving: Serving, name: str = "", version: str = "") -> Any:
    async with triton_aio.InferenceServerClient(serving.plane.grpc_address) as client:
        return (await client.get_inference_statistics(name, version)).model_stats


async def test_requests_rows_batches_and_their_times_are_counted(mnist: Serving) -> None:
    began = time.time()
    (before,) = await statistics(mnist, "mnist")
    assert (before.inference_stats.queue.count, before.last_inference) == (0, 0)
    for rows in (1, 4, 4):
        await mnist.infer(PIXELS[:rows])
    await refusal(mnist.stub.ModelInfer(request_for(PIXELS[:, :, :5])))
    (after,) = await statistics(mnist, "mnist")
    assert (after.name, after.version) == ("mnist", "1")
    assert (after.inference_count, after.execution_count) == (9, 3)
    counted = after.inference_stats
    assert (counted.success.count, counted.fail.count, counted.queue.count, counted.compute_infer.count) == (3, 1, 3, 3)
    assert counted.success.ns > counted.queue.ns + counted.compute_infer.ns > 0
    assert counted.fail.ns > 0
    assert [(batch.batch_size, batch.compute_infer.count) for batch in after.batch_stats] == [(1, 1), (4, 2)]
    assert sum(batch.compute_infer.ns for batch in after.batch_stats) == pytest.approx(counted.compute_infer.ns, abs=3)
    assert began * 1e3 - 1 <= after.last_inference <= time.time() * 1e3 + 1


async def test_requests_that_share_a_batch_each_count_its_time(mnist: Serving) -> None:
    served = mnist.plane.repository.resolve("mnist", "")
    rows = PIXELS.reshape(4, -1)
    await asyncio.gather(*(served.batcher.submit(rows) for _ in range(3)))
    (counted,) = await statistics(mnist, "mnist")
    (batch,) = counted.batch_stats
    assert (batch.batch_size, batch.compute_infer.count, counted.execution_count) == (12, 1, 1)
    assert (counted.inference_stats.queue.count, counted.inference_stats.compute_infer.count) == (3, 3)
    assert counted.inference_stats.compute_infer.ns == pytest.approx(3 * batch.compute_infer.ns, abs=3)


async def test_every_version_of_a_model_or_of_all_or_one_alone(serving: Serving) -> None:
    await serving.start()
    serving.wish(serving.version(1), serving.version(2), aliases={"staging": 1})
    await serving.until_version(2)
    for name, version, expected in (
        ("", "", ["1", "2"]),
        ("mnist", "", ["1", "2"]),
        ("mnist", "2", ["2"]),
        ("mnist@staging", "", ["1"]),
    ):
        assert [line.version for line in await statistics(serving, name, version)] == expected
    for name, version in (("other", ""), ("mnist", "3")):
        with pytest.raises(triton.InferenceServerException):
            await statistics(serving, name, version)
