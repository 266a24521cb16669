"""Inference through the protocol: every legal way to send pixels, and what comes back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from batchyard.oip import messages
from bench.small_artifact import SmallNetwork
from tests.serving.harness import Serving, assert_is_answer, logits_of, request_for

NETWORK = SmallNetwork(seed=1)
PIXELS = NETWORK.pixels(5)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("shape", [(5, 1, 28, 28), (5, 784)])
async def test_raw_pixels_of_either_type_and_shape_give_the_oracles_logits(
    mnist: Serving, dtype: type[np.generic], shape: tuple[int, ...]
) -> None:
    pixels = PIXELS.astype(dtype).reshape(shape)
    assert_is_answer(await mnist.infer(pixels), NETWORK, PIXELS)


@pytest.mark.parametrize(("datatype", "field"), [("FP32", "fp32_contents"), ("UINT8", "uint_contents")])
async def test_typed_contents_give_the_same_as_raw_ones(mnist: Serving, datatype: str, field: str) -> None:
    request = messages.ModelInferRequest(model_name="mnist")
    tensor = request.inputs.add(name="pixels", datatype=datatype, shape=PIXELS.shape)
    getattr(tensor.contents, field).extend(PIXELS.ravel().tolist())
    typed = logits_of(await mnist.stub.ModelInfer(request))
    np.testing.assert_array_equal(typed, await mnist.infer(PIXELS))


async def test_the_reply_names_model_version_and_request(mnist: Serving) -> None:
    request = request_for(PIXELS)
    request.outputs.add(name="logits")
    response = await mnist.stub.ModelInfer(request)
    assert (response.model_name, response.model_version, response.id) == ("mnist", "1", "the id")


@pytest.mark.parametrize(("model", "version"), [("mnist", "1"), ("mnist@production", ""), ("mnist@production", "1")])
async def test_a_version_answers_to_its_number_and_to_its_aliases(mnist: Serving, model: str, version: str) -> None:
    assert_is_answer(await mnist.infer(PIXELS, model, version), NETWORK, PIXELS)


async def test_a_request_larger_than_a_batch_is_answered_whole_and_in_order(mnist: Serving) -> None:
    pixels = NETWORK.pixels(1000)
    assert_is_answer(await mnist.infer(pixels), NETWORK, pixels)


async def test_classification_gives_the_best_classes_of_each_row_best_first(mnist: Serving) -> None:
    request = request_for(PIXELS)
    request.outputs.add(name="logits").parameters["classification"].int64_param = 3
    response = await mnist.stub.ModelInfer(request)
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == ("BYTES", [5, 3])
    logits = NETWORK.oracle(PIXELS)
    expected = [(index, f"class-{index}") for row in logits for index in np.argsort(-row)[:3]]
    found = [element.split(":") for element in unpack(response.raw_output_contents[0])]
    assert [(int(index), label) for _, index, label in found] == expected
    scores = [logits[at // 3, index] for at, (index, _) in enumerate(expected)]
    np.testing.assert_allclose([float(score) for score, _, _ in found], scores, atol=1e-3)


async def test_asking_for_more_classes_than_there_are_gives_all(mnist: Serving) -> None:
    request = request_for(PIXELS)
    request.outputs.add(name="logits").parameters["classification"].int64_param = 1000
    response = await mnist.stub.ModelInfer(request)
    assert list(response.outputs[0].shape) == [5, 10]


async def test_parameters_meant_for_triton_are_tolerated(mnist: Serving) -> None:
    request = request_for(PIXELS)
    request.parameters["triton_enable_empty_final_response"].bool_param = False
    request.parameters["priority"].uint64_param = 1
    request.parameters["timeout"].int64_param = 30_000_000
    assert_is_answer(logits_of(await mnist.stub.ModelInfer(request)), NETWORK, PIXELS)


async def test_metadata_describes_server_and_model(mnist: Serving) -> None:
    server = await mnist.stub.ServerMetadata(messages.ServerMetadataRequest())
    assert server.name == "batchyard"
    assert "classification" in server.extensions
    model = await mnist.stub.ModelMetadata(messages.ModelMetadataRequest(name="mnist@production"))
    assert (model.name, list(model.versions), model.platform) == ("mnist", ["1"], "onnxruntime_onnx")
    assert [(t.name, t.datatype, list(t.shape)) for t in model.inputs] == [("pixels", "FP32", [-1, 1, 28, 28])]
    assert [(t.name, t.datatype, list(t.shape)) for t in model.outputs] == [("logits", "FP32", [-1, 10])]


async def test_readiness_is_told_for_server_and_model(mnist: Serving) -> None:
    assert (await mnist.stub.ServerLive(messages.ServerLiveRequest())).live
    assert (await mnist.stub.ServerReady(messages.ServerReadyRequest())).ready
    assert (await mnist.stub.ModelReady(messages.ModelReadyRequest(name="mnist"))).ready
    assert not (await mnist.stub.ModelReady(messages.ModelReadyRequest(name="mnist", version="9"))).ready
    assert not (await mnist.stub.ModelReady(messages.ModelReadyRequest(name="other"))).ready


def unpack(packed: bytes) -> list[str]:
    """Elements of a BYTES tensor."""
    elements: list[Any] = []
    while packed:
        size = int.from_bytes(packed[:4], "little")
        elements.append(packed[4 : 4 + size].decode())
        packed = packed[4 + size :]
    return elements
