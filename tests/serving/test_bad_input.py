"""Malformed requests: each a clear refusal that names model and tensor, and a server that goes on."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2

from batchyard.oip import SERVICE_NAME
from batchyard.oip.messages import ModelInferRequest
from batchyard.serving.settings import Limits
from bench.small_artifact import SmallNetwork
from tests.serving.harness import Serving, assert_is_answer, detail, reason_of, refusal, request_for, until

NETWORK = SmallNetwork(seed=1)
PIXELS = NETWORK.pixels(2)
GOOD = request_for(PIXELS.astype(np.float32))


def no_inputs(request: ModelInferRequest) -> None:
    del request.inputs[:]


def two_inputs(request: ModelInferRequest) -> None:
    request.inputs.append(request.inputs[0])


def other_name(request: ModelInferRequest) -> None:
    request.inputs[0].name = "image"


def endless_name(request: ModelInferRequest) -> None:
    request.inputs[0].name = "ä\0" * 1_000_000


def other_datatype(request: ModelInferRequest) -> None:
    request.inputs[0].datatype = "FP64"


def no_datatype(request: ModelInferRequest) -> None:
    request.inputs[0].datatype = ""


def reshaped(*shape: int) -> Callable[[ModelInferRequest], None]:
    def change(request: ModelInferRequest) -> None:
        request.inputs[0].shape[:] = shape

    change.__name__ = f"shape {str(shape)[:30]}"
    return change


def bytes_missing(request: ModelInferRequest) -> None:
    request.raw_input_contents[0] = request.raw_input_contents[0][:-1]


def bytes_too_many(request: ModelInferRequest) -> None:
    request.raw_input_contents[0] += b"\0\0\0\0"


def no_contents(request: ModelInferRequest) -> None:
    del request.raw_input_contents[:]


def two_raw(request: ModelInferRequest) -> None:
    request.raw_input_contents.append(b"")


def raw_and_typed(request: ModelInferRequest) -> None:
    request.inputs[0].contents.fp32_contents.append(1.0)


def wrong_typed_field(request: ModelInferRequest) -> None:
    del request.raw_input_contents[:]
    request.inputs[0].contents.int_contents.extend([0] * 1568)


def too_few_typed(request: ModelInferRequest) -> None:
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.append(1.0)


def typed_pixel_of_256(request: ModelInferRequest) -> None:
    del request.raw_input_contents[:]
    request.inputs[0].datatype = "UINT8"
    request.inputs[0].contents.uint_contents.extend([256] * 1568)


def holding(value: float, typed: bool = False) -> Callable[[ModelInferRequest], None]:
    def change(request: ModelInferRequest) -> None:
        pixels = PIXELS.astype(np.float32)
        pixels[1, 0, 27, 27] = value
        request.raw_input_contents[0] = pixels.tobytes()
        if typed:
            del request.raw_input_contents[:]
            request.inputs[0].contents.fp32_contents.extend(pixels.reshape(-1))

    change.__name__ = f"holding {value}"
    return change


def unknown_output(request: ModelInferRequest) -> None:
    request.outputs.add(name="probabilities")


def output_twice(request: ModelInferRequest) -> None:
    request.outputs.add(name="logits")
    request.outputs.add(name="logits")


def zero_classes(request: ModelInferRequest) -> None:
    request.outputs.add(name="logits").parameters["classification"].int64_param = 0


def classes_in_words(request: ModelInferRequest) -> None:
    request.outputs.add(name="logits").parameters["classification"].string_param = "three"


MALFORMED = [
    (no_inputs, "got 0 inputs"),
    (two_inputs, "got 2 inputs"),
    (other_name, "'image'"),
    (endless_name, "2000000 characters"),
    (other_datatype, "'FP64'; expected FP32 or UINT8"),
    (no_datatype, "expected FP32 or UINT8"),
    (reshaped(), "expected [N, 1, 28, 28] or [N, 784]"),
    (reshaped(2), "expected [N, 1, 28, 28] or [N, 784]"),
    (reshaped(1, 28, 28), "got [1, 28, 28]"),
    (reshaped(2, 28, 28, 1), "got [2, 28, 28, 1]"),
    (reshaped(0, 784), "at least one row"),
    (reshaped(-1, 784), "at least one row"),
    (reshaped(-2, -1, -28, 28), "expected [N, 1, 28, 28]"),
    (reshaped(1, 784), "got 6272 bytes; 1 rows of 784 FP32 values are 3136 bytes"),
    (reshaped(2**32 + 2, 784), "4294967298 rows"),
    (reshaped(2**62, 784), "one request may have at most"),
    (reshaped(*[1] * 100_000), "100000 dimensions"),
    (bytes_missing, "got 6271 bytes"),
    (bytes_too_many, "got 6276 bytes"),
    (no_contents, "got nothing; FP32 goes into raw_input_contents or fp32_contents"),
    (two_raw, "got 2 entries for one input"),
    (raw_and_typed, "got both"),
    (wrong_typed_field, "got int_contents"),
    (too_few_typed, "got 1 values"),
    (typed_pixel_of_256, "got 256"),
    (holding(np.nan), "row 1 holds NaN or infinity"),
    (holding(np.inf), "row 1 holds NaN or infinity"),
    (holding(-np.inf, typed=True), "row 1 holds NaN or infinity"),
    (unknown_output, "'probabilities'"),
    (output_twice, "got 2"),
    (zero_classes, "at least 1"),
    (classes_in_words, "at least 1"),
]


async def test_each_malformed_request_is_refused_by_name_and_the_next_one_answered(mnist: Serving) -> None:
    for change, words in MALFORMED:
        request = ModelInferRequest()
        request.CopyFrom(GOOD)
        change(request)
        code, message, status = await refusal(mnist.stub.ModelInfer(request))
        assert code is grpc.StatusCode.INVALID_ARGUMENT, (change.__name__, message)
        assert words in message, (change.__name__, message)
        assert "'mnist' version 1" in message, (change.__name__, message)
        (violation,) = detail(status, error_details_pb2.BadRequest).field_violations
        assert "pixels" in violation.field or "logits" in message, (change.__name__, violation)
        assert len(message) < 1000, change.__name__
    assert_is_answer(await mnist.infer(PIXELS), NETWORK, PIXELS)


@pytest.mark.parametrize("rows", [2, 20])
async def test_finite_pixels_whose_squares_are_not_are_answered_and_no_nan_hides_among_many(
    mnist: Serving, rows: int
) -> None:
    pixels = NETWORK.pixels(rows).astype(np.float32)
    pixels[0, 0, 0, 0] = np.finfo(np.float32).max
    assert (await mnist.infer(pixels)).shape == (rows, 10)
    pixels[rows - 1, 0, 0, 0] = np.nan
    code, message, _ = await refusal(mnist.infer(pixels))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert f"row {rows - 1} holds NaN" in message


async def test_a_priority_that_the_model_does_not_have_is_refused_by_name(mnist: Serving) -> None:
    request = request_for(PIXELS)
    request.parameters["priority"].uint64_param = 9
    await mnist.stub.ModelInfer(request)  # without levels it has no effect
    (model,) = mnist.control.wish.models
    model.model.serving_settings.priority_levels = 3
    mnist.control.tell(model)
    served: Any = mnist.plane.repository.resolve("mnist", "")
    await until(lambda: served.policy.levels == 3, "the new settings, on the version that is loaded")
    code, message, _ = await refusal(mnist.stub.ModelInfer(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "parameters[priority]: model 'mnist' version 1: got 9; the model has levels 1, the highest, to 3" in message
    request.parameters["priority"].uint64_param = 3
    await mnist.stub.ModelInfer(request)


async def test_a_timeout_that_is_no_number_of_microseconds_is_refused(mnist: Serving) -> None:
    for field, value in (("string_param", "soon"), ("int64_param", -1)):
        request = request_for(PIXELS)
        setattr(request.parameters["timeout"], field, value)
        code, message, _ = await refusal(mnist.stub.ModelInfer(request))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "parameters[timeout]" in message


async def test_a_tensor_in_shared_memory_needs_a_region_and_a_size(mnist: Serving) -> None:
    source, target = request_for(PIXELS), request_for(PIXELS)
    del source.raw_input_contents[:]
    target.outputs.add(name="logits")
    for request, tensor in ((source, source.inputs[0]), (target, target.outputs[0])):
        tensor.parameters["shared_memory_region"].string_param = "region"
        code, message, status = await refusal(mnist.stub.ModelInfer(request))
        assert (code, reason_of(status)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SHARED_MEMORY")
        assert "'mnist' version 1" in message
        assert f"[{tensor.name!r}].parameters[shared_memory_byte_size]" in message
        tensor.parameters["shared_memory_byte_size"].int64_param = PIXELS.nbytes
        code, message, status = await refusal(mnist.stub.ModelInfer(request))
        assert (code, reason_of(status)) == (grpc.StatusCode.NOT_FOUND, "REGION_NOT_FOUND")


@pytest.mark.parametrize(
    ("model", "version", "words"),
    [
        ("nonsense", "", "served: mnist"),
        ("", "", "served: mnist"),
        ("mnist", "7", "versions: 1; aliases: mnist@production"),
        ("mnist", "01", "versions: 1"),
        ("mnist", "9" * 5000, "versions: 1"),
        ("mnist@staging", "", "aliases: mnist@production"),
        ("mnist@production", "2", "versions: 1"),
        ("mnist@", "", "aliases: mnist@production"),
        ("mnist@production@production", "", "aliases: mnist@production"),
    ],
)
async def test_a_name_that_nobody_answers_to_is_not_found_and_told_what_is(
    mnist: Serving, model: str, version: str, words: str
) -> None:
    code, message, _ = await refusal(mnist.infer(PIXELS, model, version))
    assert code is grpc.StatusCode.NOT_FOUND
    assert words in message
    assert len(message) < 1000


async def test_random_bytes_and_damaged_messages_never_take_the_server_down(mnist: Serving) -> None:
    send = mnist.channel.unary_unary(f"/{SERVICE_NAME}/ModelInfer")
    rng = random.Random(7)
    whole = GOOD.SerializeToString()
    refusals: list[grpc.aio.AioRpcError] = []
    for round_number in range(400):
        packed = bytearray(whole if round_number % 4 else rng.randbytes(rng.randrange(300)))
        if round_number % 4 == 1:
            packed = packed[: rng.randrange(len(packed))]
        for _ in range(rng.randrange(4) if round_number % 4 > 1 else 0):
            packed[rng.randrange(60 if round_number % 4 == 2 else len(packed))] = rng.randrange(256)
        try:
            await send(bytes(packed), timeout=30)
        except grpc.aio.AioRpcError as error:
            refusals.append(error)
    unexpected = [error for error in refusals if error.code() not in THE_CALLERS_FAULT]
    assert not unexpected
    assert len(refusals) > 100
    assert_is_answer(await mnist.infer(PIXELS), NETWORK, PIXELS)


THE_CALLERS_FAULT = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}


async def test_bytes_that_are_no_message_are_the_callers_fault(mnist: Serving) -> None:
    send = mnist.channel.unary_unary(f"/{SERVICE_NAME}/ModelInfer")
    code, message, status = await refusal(send(b"\xff\xff\xff"))
    assert (code, reason_of(status)) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")
    assert "3 bytes" in message


async def test_a_message_larger_than_the_bound_is_refused_with_both_sizes(serving: Serving) -> None:
    await serving.start(max_message_bytes=100_000)
    serving.wish(serving.version(1))
    await serving.until_version(1)
    with pytest.raises(grpc.aio.AioRpcError, match="100000") as caught:
        await serving.infer(NETWORK.pixels(200))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert_is_answer(await serving.infer(PIXELS), NETWORK, PIXELS)


async def test_messages_far_beyond_grpcs_own_four_megabytes_are_answered(mnist: Serving) -> None:
    pixels = NETWORK.pixels(3000).astype(np.float32)
    assert pixels.nbytes > 9_000_000
    assert_is_answer(await mnist.infer(pixels), NETWORK, pixels)


async def test_a_request_with_more_rows_than_the_queue_holds_is_told_the_bound(serving: Serving) -> None:
    await serving.start(limits=Limits(max_batch=4, queue_rows=16))
    serving.wish(serving.version(1))
    await serving.until_version(1)
    code, message, _ = await refusal(serving.infer(NETWORK.pixels(17)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "at most 16" in message
    pixels: Any = NETWORK.pixels(16)
    assert_is_answer(await serving.infer(pixels), NETWORK, pixels)
