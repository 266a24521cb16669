"""What the asynchronous client has beyond the synchronous one: others on its event loop go on while it waits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo

import batchyard.client
from batchyard.client import (
    AsyncClient,
    Client,
    ConfigurationError,
    LogLine,
    StateChange,
    TrainingJob,
    UnavailableError,
)
from batchyard.client.aio import compare_weights
from batchyard.client.testing import FakeService
from batchyard.v1.models_pb2 import ModelVersion, TensorSignature

SPEC = {"name": "try", "model": {"architecture": "mlp"}, "data": {"dataset": "digits"}, "steps": 10}


@pytest.fixture
async def asynchronous(service: FakeService) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(service.address, service.address, timeout=20, retry_for=10) as client:
        yield client


async def test_many_watches_share_one_event_loop(service: FakeService, asynchronous: AsyncClient) -> None:
    names = [(await asynchronous.submit(SPEC)).name for _ in range(8)]
    waiting = asyncio.gather(*(asynchronous.wait(name, timeout=20) for name in names))
    for name in reversed(names):
        service.emit(name, StateChange(state=TrainingJob.SUCCEEDED))
    assert [job.name for job in await waiting] == names


async def test_inferences_at_once_each_get_their_own_answer(service: FakeService, asynchronous: AsyncClient) -> None:
    signature = TensorSignature(name="pixels", datatype="FP32", shape=[-1, 1, 2, 2])
    scores = TensorSignature(name="logits", datatype="FP32", shape=[-1, 4])
    service.add_version(ModelVersion(name="models/m/versions/3", inputs=[signature], outputs=[scores]))
    service.functions["m"] = lambda pixels: pixels.reshape(len(pixels), -1).astype(np.float32)
    arrays = [np.full((1, 1, 2, 2), value, np.uint8) for value in range(20)]
    results = await asyncio.gather(*(asynchronous.infer("m", {"pixels": array}) for array in arrays))
    assert [int(result.outputs["logits"][0, 0]) for result in results] == list(range(20))


async def test_others_go_on_while_a_call_waits_to_be_repeated(service: FakeService, asynchronous: AsyncClient) -> None:
    later = RetryInfo(retry_delay=Duration(nanos=500_000_000))
    service.fail_next("ListModels", grpc.StatusCode.UNAVAILABLE, "starting", later)
    listing = asyncio.ensure_future(_all(asynchronous.models()))
    ticks = 0
    while not listing.done():
        await asyncio.sleep(0.005)
        ticks += 1
    assert await listing == []
    assert ticks > 10, "half a second has a hundred of them; were the loop held up, there would be two or three"


async def test_a_cancelled_task_ends_its_stream_and_the_client_goes_on(
    service: FakeService, asynchronous: AsyncClient
) -> None:
    name = (await asynchronous.submit(SPEC)).name
    service.emit(name, LogLine(level="INFO", text="one"))
    seen = asyncio.Event()

    async def follow() -> None:
        async for _ in asynchronous.watch(name):
            seen.set()

    task = asyncio.create_task(follow())
    await seen.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await asynchronous.job(name)).state == TrainingJob.QUEUED


async def test_a_watch_that_is_closed_goes_on_after_its_cursor(service: FakeService, asynchronous: AsyncClient) -> None:
    name = (await asynchronous.submit(SPEC)).name
    service.emit(name, LogLine(level="INFO", text="one"), LogLine(level="INFO", text="two"))
    async with aclosing(asynchronous.watch(name)) as events:
        first = await anext(events)
    service.emit(name, StateChange(state=TrainingJob.SUCCEEDED))
    rest = [event async for event in asynchronous.watch(name, cursor=first.cursor, kinds=(LogLine,))]
    assert [event.detail.text for event in rest if isinstance(event.detail, LogLine)] == ["two"]


async def test_weights_of_two_jobs_are_compared(service: FakeService, asynchronous: AsyncClient) -> None:
    for number, digest in ((1, "ab"), (2, "ab"), (3, "cd")):
        service.add_version(ModelVersion(name=f"models/m/versions/{number}", weights_sha256=digest))
    one, same, other = (TrainingJob(model_version=f"models/m/versions/{n}") for n in (1, 2, 3))
    assert (await compare_weights(asynchronous, one, same)).equal
    assert not (await compare_weights(asynchronous, one, other)).equal


async def test_a_service_that_is_not_there_is_named_with_what_to_do() -> None:
    async with AsyncClient("127.0.0.1:1", retry_for=0.2) as client:
        with pytest.raises(UnavailableError) as caught:
            await client.job("x")
    assert str(caught.value) == "the control plane at 127.0.0.1:1 does not answer (connection refused)"
    assert "batchyard up" in caught.value.hint


def test_outside_of_an_event_loop_it_is_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match="no event loop runs") as caught:
        AsyncClient()
    assert "coroutine" in caught.value.hint


def test_both_clients_have_the_same_methods() -> None:
    ways_in_and_out = {"__enter__": "__aenter__", "__exit__": "__aexit__"}
    expected = {ways_in_and_out.get(name, name) for name in vars(Client)}
    assert expected == set(vars(AsyncClient))
    assert batchyard.client.AsyncClient is AsyncClient


async def _all(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]
