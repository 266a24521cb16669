"""Unmodified tritonclient.grpc, sync and asyncio, in one process with our own stub."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

from bench.small_artifact import SmallNetwork
from tests.serving.harness import Serving, assert_is_answer

NETWORK = SmallNetwork(seed=1)
PIXELS = NETWORK.pixels(4)


def inputs(datatype: str) -> list[triton.InferInput]:
    tensor = triton.InferInput("pixels", list(PIXELS.shape), datatype)
    tensor.set_data_from_numpy(PIXELS.astype({"FP32": np.float32, "UINT8": np.uint8}[datatype]))
    return [tensor]


@pytest.mark.parametrize("datatype", ["FP32", "UINT8"])
async def test_the_sync_client_infers_beside_our_own_stub(mnist: Serving, datatype: str) -> None:
    def ask() -> np.ndarray:
        with triton.InferenceServerClient(mnist.plane.grpc_address) as client:
            assert client.is_server_live()
            assert client.is_server_ready()
            assert client.is_model_ready("mnist")
            assert not client.is_model_ready("other")
            assert client.get_server_metadata().name == "batchyard"
            assert client.get_model_metadata("mnist").inputs[0].name == "pixels"
            result = client.infer("mnist", inputs(datatype), outputs=[triton.InferRequestedOutput("logits")])
            return np.asarray(result.as_numpy("logits"))

    theirs = await asyncio.to_thread(ask)
    assert_is_answer(theirs, NETWORK, PIXELS)
    np.testing.assert_array_equal(theirs, await mnist.infer(PIXELS))


async def test_the_asyncio_client_infers_many_at_a_time(mnist: Serving) -> None:
    async with triton_aio.InferenceServerClient(mnist.plane.grpc_address) as client:
        results = await asyncio.gather(
            *(client.infer("mnist", inputs("UINT8"), model_version="1", request_id=str(at)) for at in range(20))
        )
    assert [result.get_response().id for result in results] == [str(at) for at in range(20)]
    for result in results:
        assert_is_answer(result.as_numpy("logits"), NETWORK, PIXELS)


async def test_classification_and_compression_work_as_with_triton(mnist: Serving) -> None:
    async with triton_aio.InferenceServerClient(mnist.plane.grpc_address) as client:
        wanted = [triton_aio.InferRequestedOutput("logits", class_count=1)]
        result = await client.infer("mnist", inputs("FP32"), outputs=wanted, compression_algorithm="gzip")
    best = [element.decode().split(":")[2] for element in result.as_numpy("logits").ravel()]
    assert best == [f"class-{index}" for index in NETWORK.oracle(PIXELS).argmax(axis=1)]


async def test_errors_reach_the_client_with_their_words(mnist: Serving) -> None:
    async with triton_aio.InferenceServerClient(mnist.plane.grpc_address) as client:
        with pytest.raises(triton.InferenceServerException, match="served: mnist") as caught:
            await client.infer("other", inputs("FP32"))
        assert caught.value.status() == "StatusCode.NOT_FOUND"
        with pytest.raises(triton.InferenceServerException, match="deadline") as caught:
            await client.infer("mnist", inputs("FP32"), timeout=1)
        assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
