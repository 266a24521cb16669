"""With --triton-error-codes a client that branches on Triton's status codes finds them."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from google.rpc import error_details_pb2
from tritonclient.utils import InferenceServerException

from batchyard.oip import messages
from batchyard.serving.settings import Limits
from bench.small_artifact import SmallNetwork
from tests.serving.harness import Serving, detail, reason_of, refusal, request_for, until

SLOW = SmallNetwork(seed=1, hidden=(1000, 1000))
"""About half a millisecond a row: can be caught waiting."""


@pytest.fixture
async def full(serving: Serving) -> Serving:
    """Its queue has no room for a second request of 300 rows while a first one waits."""
    await serving.start(limits=Limits(max_batch=1, queue_rows=300), triton_error_codes=True)
    serving.wish(serving.version(1, SLOW))
    await serving.until_version(1)
    return serving


def inputs(rows: int) -> list[triton.InferInput]:
    tensor = triton.InferInput("pixels", [rows, *SLOW.row_shape], "FP32")
    tensor.set_data_from_numpy(SLOW.pixels(rows).astype(np.float32))
    return [tensor]


async def test_tritonclient_is_told_unavailable_when_the_queue_is_full(full: Serving) -> None:
    filling = asyncio.ensure_future(full.infer(SLOW.pixels(300)))
    served = full.plane.repository.resolve("mnist", "1")
    await until(lambda: served.batcher.queued_rows > 100, "the queue is full")
    async with triton.InferenceServerClient(full.plane.grpc_address) as client:
        with pytest.raises(InferenceServerException) as refused:
            await client.infer("mnist", inputs(300))
        assert refused.value.status() == "StatusCode.UNAVAILABLE"
    code, _, status = await refusal(full.infer(SLOW.pixels(300)))
    assert (code, reason_of(status)) == (grpc.StatusCode.UNAVAILABLE, "QUEUE_FULL")
    assert detail(status, error_details_pb2.RetryInfo).retry_delay.ToTimedelta().total_seconds() > 0
    await filling
    assert served.metrics.failures["RESOURCE_EXHAUSTED"] == 2


async def test_tritonclient_is_told_unavailable_when_a_request_expires_in_the_queue(full: Serving) -> None:
    filling = asyncio.ensure_future(full.infer(SLOW.pixels(250)))
    served = full.plane.repository.resolve("mnist", "1")
    await until(lambda: served.batcher.queued_rows > 100, "requests wait")
    async with triton.InferenceServerClient(full.plane.grpc_address) as client:
        with pytest.raises(InferenceServerException) as refused:
            await client.infer("mnist", inputs(1), timeout=100)
        assert refused.value.status() == "StatusCode.UNAVAILABLE"
        with pytest.raises(InferenceServerException) as forbidden:
            await client.unload_model("mnist")
        assert forbidden.value.status() == "StatusCode.UNAVAILABLE"
    await filling


async def test_what_both_say_alike_stays(full: Serving) -> None:
    code, _, status = await refusal(full.stub.ModelInfer(request_for(SLOW.pixels(1), model="nobody")))
    assert (code, reason_of(status)) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    code, _, _ = await refusal(full.stub.ModelInfer(messages.ModelInferRequest(model_name="mnist")))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
