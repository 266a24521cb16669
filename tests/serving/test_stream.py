"""ModelStreamInfer: many inferences over one stream, by tritonclient and by hand."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

from batchyard.oip import SERVICE_NAME, messages
from batchyard.serving.oip.stream import MOST_UNDER_WAY, StreamInference
from batchyard.serving.settings import Limits
from bench.small_artifact import SmallNetwork
from tests.serving.harness import (
    Serving,
    assert_is_answer,
    logits_of,
    reason_of,
    refusal,
    request_for,
    until,
)

NETWORK = SmallNetwork(seed=1)
PIXELS = NETWORK.pixels(64)


def tensor(pixels: np.ndarray) -> list[triton.InferInput]:
    made = triton.InferInput("pixels", list(pixels.shape), "UINT8")
    made.set_data_from_numpy(pixels)
    return [made]


async def test_the_sync_client_gets_every_answer_in_order(mnist: Serving) -> None:
    def ask() -> list[Any]:
        answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        with triton.InferenceServerClient(mnist.plane.grpc_address) as client:
            client.start_stream(lambda result, error: answers.put((result, error)))
            for at in range(300):
                rows = 1 + at % 7
                client.async_stream_infer(
                    "mnist", tensor(PIXELS[:rows]), request_id=str(at), enable_empty_final_response=True
                )
            client.stop_stream()
        return [answers.get(timeout=30) for _ in range(300)]

    answers = await asyncio.to_thread(ask)
    assert [error for _, error in answers if error] == []
    for at, (result, _) in enumerate(answers):
        response = result.get_response()
        assert response.id == str(at)
        assert response.parameters["triton_final_response"].bool_param
        assert_is_answer(result.as_numpy("logits"), NETWORK, PIXELS[: 1 + at % 7])


async def test_a_request_that_fails_is_told_in_its_place_and_ends_nothing(mnist: Serving) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for at, model in enumerate(["mnist", "other", "mnist"]):
            yield {"model_name": model, "inputs": tensor(PIXELS[:2]), "request_id": f"the {at}"}

    async with triton_aio.InferenceServerClient(mnist.plane.grpc_address) as client:
        first, second, third = [answer async for answer in client.stream_infer(requests())]
    assert (first[1], third[1]) == (None, None)
    assert second[0] is None
    assert "served: mnist" in str(second[1])
    assert_is_answer(third[0].as_numpy("logits"), NETWORK, PIXELS[:2])


async def test_with_triton_grpc_error_the_stream_ends_with_a_status(mnist: Serving) -> None:
    call = mnist.stub.ModelStreamInfer(metadata=(("triton_grpc_error", "true"),))
    for model in ("mnist", "other", "mnist"):
        await call.write(request_for(PIXELS[:1], model))
    assert_is_answer(logits_of((await call.read()).infer_response), NETWORK, PIXELS[:1])
    code, _, status = await refusal(call.read())
    assert (code, reason_of(status)) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")


async def test_an_unforeseen_error_in_a_stream_is_told_by_an_incident_number_only(
    mnist: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_: object) -> None:
        raise RuntimeError("secret words")

    monkeypatch.setattr("batchyard.serving.oip.infer.read_rows", break_down)
    call = mnist.stub.ModelStreamInfer()
    await call.write(request_for(PIXELS[:1]))
    answer = await call.read()
    assert "incident" in answer.error_message
    assert "secret" not in answer.error_message
    assert answer.infer_response.id == "the id"
    call.cancel()


async def test_a_malformed_message_ends_the_stream_after_the_answers_before_it(mnist: Serving) -> None:
    call = mnist.channel.stream_stream(
        f"/{SERVICE_NAME}/ModelStreamInfer", response_deserializer=messages.ModelStreamInferResponse.FromString
    )()
    await call.write(request_for(PIXELS[:1]).SerializeToString())
    await call.write(b"\xff\xff")
    assert_is_answer(logits_of((await call.read()).infer_response), NETWORK, PIXELS[:1])
    code, _, status = await refusal(call.read())
    assert (code, reason_of(status)) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")


async def test_a_stream_that_is_cancelled_takes_its_requests_out_of_the_queue(serving: Serving) -> None:
    slow = SmallNetwork(seed=1, hidden=(1000, 1000))
    await serving.start(limits=Limits(max_batch=1))
    serving.wish(serving.version(1, slow))
    await serving.until_version(1)
    served = serving.plane.repository.resolve("mnist", "")
    call = serving.stub.ModelStreamInfer()
    for _ in range(20):
        await call.write(request_for(slow.pixels(1000)))
    await until(lambda: served.batcher.queued_rows > 5000, "a long queue")
    call.cancel()
    await until(lambda: served.batcher.queued_rows == 0, "an empty queue")


async def test_a_client_that_does_not_read_is_not_read_either() -> None:
    begun = 0

    async def infer(request: messages.ModelInferRequest, context: Any) -> messages.ModelInferResponse:
        nonlocal begun
        begun += 1
        return messages.ModelInferResponse(id=request.id)

    async def requests() -> AsyncIterator[messages.ModelInferRequest]:
        while True:
            yield messages.ModelInferRequest()

    class Context:
        def invocation_metadata(self) -> tuple[()]:
            return ()

    answers = StreamInference(infer).ModelStreamInfer(requests(), Context())
    for read in range(1, 4):
        await anext(answers)
        for _ in range(1000):  # turns of the event loop: far more than it takes to begin all that may begin
            await asyncio.sleep(0)
        assert begun == MOST_UNDER_WAY + read - 1
    await answers.aclose()  # type: ignore[attr-defined]
