"""numpy through the Open Inference Protocol."""

import subprocess
import sys
import threading
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from batchyard.client import Client, NotFoundError, OverloadedError, TensorError
from batchyard.client.predictions import as_batch, portions, softmax
from batchyard.client.tensors import make_request, read_outputs
from batchyard.client.testing import FakeService
from batchyard.oip import messages
from batchyard.v1.models_pb2 import ModelVersion, TensorSignature


@pytest.fixture
def model(service: FakeService) -> str:
    signature = TensorSignature(name="pixels", datatype="FP32", shape=[-1, 1, 2, 2])
    scores = TensorSignature(name="logits", datatype="FP32", shape=[-1, 4])
    service.add_version(ModelVersion(name="models/m/versions/3", inputs=[signature], outputs=[scores]))
    service.functions["m"] = lambda pixels: pixels.reshape(len(pixels), -1).astype(np.float32)
    return "m"


def test_many_images_go_in_several_requests_that_one_version_answers(
    client: Client, service: FakeService, model: str
) -> None:
    images = np.random.default_rng(0).permuted(np.tile(np.arange(4, dtype=np.uint8), (10_000, 1)), axis=1)
    answer = client.predict(model, images.reshape(-1, 1, 2, 2))
    np.testing.assert_array_equal(answer.labels, images.argmax(axis=1))
    assert answer.probabilities.shape == (10_000, 4)
    asked = [request for method, request, _ in service.calls if method == "ModelInfer"]
    assert sorted((request.inputs[0].shape[0], request.model_version) for request in asked) == [
        (1808, "3"),
        (4096, ""),
        (4096, "3"),
    ]


@pytest.mark.parametrize(("rows", "wide", "most"), [(0, 4, 0), (3, 4, 3), (9, 8 << 20, 2), (2, 64 << 20, 1)])
def test_a_request_is_bounded_in_bytes_too(rows: int, wide: int, most: int) -> None:
    parts = [part["x"] for part in portions({"x": np.broadcast_to(np.uint8(1), (rows, wide))})]
    assert sum(map(len, parts)) == rows
    assert max(map(len, parts)) == most


def mirror(arrays: dict[str, Any]) -> dict[str, Any]:
    """What a server that sends its inputs back answers."""
    request = make_request("m", "", arrays)
    response = messages.ModelInferResponse(raw_output_contents=request.raw_input_contents)
    for tensor in request.inputs:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    return read_outputs(response)


DTYPES = ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", ">f4", ">i8"]


@given(st.sampled_from(DTYPES).flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0))))
def test_every_array_comes_back_as_it_went(array: Any) -> None:
    (back,) = mirror({"x": array}).values()
    assert back.dtype == array.dtype.newbyteorder("<")
    np.testing.assert_array_equal(back, array)


def test_an_array_that_is_not_contiguous_is_sent_in_its_own_order() -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)[::2]
    np.testing.assert_array_equal(mirror({"x": array})["x"], array)


def test_text_and_bytes_come_back_as_bytes() -> None:
    array = np.array([["zwölf", b"\x00\xff"], ["", "x"]], dtype=object)
    assert mirror({"x": array})["x"].tolist() == [["zwölf".encode(), b"\x00\xff"], [b"", b"x"]]


@pytest.mark.parametrize("array", [np.zeros(2, dtype="c8"), np.array([1, None], dtype=object)])
def test_what_the_protocol_has_no_type_for_is_refused(array: Any) -> None:
    with pytest.raises(TensorError, match="input x"):
        make_request("m", "", {"x": array})


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "words"),
    [
        ("FP32", [2], b"1234", "4 bytes do not make FP32 of shape"),
        ("FP32", [1], b"123", "3 bytes do not make FP32"),
        ("BF16", [1], b"12", "datatype BF16 cannot be read"),
        ("BYTES", [1], b"\x09\x00\x00\x00abc", "do not make BYTES"),
        ("BYTES", [1], b"\x09\x00", "do not make BYTES"),
    ],
)
def test_an_answer_that_contradicts_itself_is_an_error(datatype: str, shape: list[int], raw: bytes, words: str) -> None:
    response = messages.ModelInferResponse(raw_output_contents=[raw])
    response.outputs.add(name="y", datatype=datatype, shape=shape)
    with pytest.raises(TensorError, match=words):
        read_outputs(response)


def test_an_answer_without_raw_contents_is_an_error() -> None:
    response = messages.ModelInferResponse(model_name="m")
    response.outputs.add(name="y", datatype="FP32", shape=[1])
    with pytest.raises(TensorError, match="raw contents"):
        read_outputs(response)


def test_an_inference_tells_which_version_answered(client: Client, model: str) -> None:
    result = client.infer(model, {"pixels": np.full((2, 1, 2, 2), 7, np.uint8)})
    assert (result.model, result.version) == ("m", "3")
    np.testing.assert_array_equal(result.outputs["logits"], np.full((2, 4), 7, np.float32))


def test_a_prediction_holds_probabilities(client: Client, model: str) -> None:
    pixels = np.array([[[0, 9], [0, 0]], [[0, 0], [0, 8]]], dtype=np.uint8)
    prediction = client.predict(model, pixels)
    assert prediction.labels.tolist() == [1, 3]
    np.testing.assert_allclose(prediction.probabilities.sum(axis=1), 1)
    assert prediction.probabilities[0, 1] > 0.999


def test_uint8_pixels_travel_as_uint8_and_others_as_fp32(client: Client, service: FakeService, model: str) -> None:
    client.predict(model, np.zeros((1, 1, 2, 2), np.uint8))
    client.predict(model, np.zeros((1, 1, 2, 2), np.int64))
    sent = [request.inputs[0].datatype for method, request, _ in service.calls if method == "ModelInfer"]
    assert sent == ["UINT8", "FP32"]


def test_a_model_that_is_not_served_is_not_found(client: Client) -> None:
    with pytest.raises(NotFoundError):
        client.predict("nothing", np.zeros((2, 2)))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [((5, 1, 2, 3), (5, 1, 2, 3)), ((1, 2, 3), (1, 1, 2, 3)), ((2, 3), (1, 1, 2, 3)), ((5, 2, 3), (5, 1, 2, 3))],
)
def test_axes_of_size_one_may_be_left_out(given: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    assert as_batch(np.zeros(given), (-1, 1, 2, 3), "m").shape == wanted


@pytest.mark.parametrize("shape", [(), (4,), (3, 2), (5, 3, 2), (5, 3, 2, 3), (1, 5, 1, 2, 3)])
def test_other_shapes_are_refused_with_the_one_expected(shape: tuple[int, ...]) -> None:
    with pytest.raises(TensorError, match=r"expected \['N', 1, 2, 3\]"):
        as_batch(np.zeros(shape), (-1, 1, 2, 3), "m")


def test_softmax_holds_for_large_logits() -> None:
    logits = np.array([[1000.0, 1000.0], [-1e4, 0.0]], np.float32)
    np.testing.assert_allclose(softmax(logits), [[0.5, 0.5], [0.0, 1.0]])


def test_many_inferences_come_back_in_order_and_no_more_than_allowed_are_under_way(
    client: Client, service: FakeService, model: str
) -> None:
    lock, under_way, most = threading.Lock(), 0, 0

    def answer(pixels: Any) -> Any:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        result = pixels.reshape(len(pixels), -1).astype(np.float32)
        with lock:
            under_way -= 1
        return result

    service.functions[model] = answer
    batches = ({"pixels": np.full((1, 1, 2, 2), i, np.uint8)} for i in range(60))
    values = [int(r.outputs["logits"][0, 0]) for r in client.inference.infer_many(model, batches, concurrency=4)]
    assert values == list(range(60))
    assert 1 <= most <= 4


def test_an_unavailable_answer_among_many_is_asked_for_again(client: Client, service: FakeService, model: str) -> None:
    service.fail_next("ModelInfer", grpc.StatusCode.UNAVAILABLE, "swapping", times=3)
    batches = ({"pixels": np.full((1, 1, 2, 2), i, np.uint8)} for i in range(8))
    values = [int(r.outputs["logits"][0, 0]) for r in client.inference.infer_many(model, batches, concurrency=2)]
    assert values == list(range(8))


def test_another_error_among_many_is_raised(client: Client, service: FakeService, model: str) -> None:
    service.fail_next("ModelInfer", grpc.StatusCode.RESOURCE_EXHAUSTED, "queue full")
    batches = ({"pixels": np.zeros((1, 1, 2, 2), np.uint8)} for _ in range(8))
    with pytest.raises(OverloadedError, match="queue full"):
        list(client.inference.infer_many(model, batches, concurrency=2))


def test_concurrency_is_at_least_one(client: Client, model: str) -> None:
    with pytest.raises(ValueError, match="concurrency: 0 given"):
        list(client.inference.infer_many(model, [], concurrency=0))


@pytest.mark.parametrize("order", ["tritonclient.grpc, batchyard.client", "batchyard.client, tritonclient.grpc"])
def test_the_client_shares_a_process_with_tritonclient(order: str) -> None:
    code = f"import {order}; batchyard.client.Client().close()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
