"""The low-level front as a server: what becomes of calls when it stops, and of callers who leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from batchyard.endpoint.errors import OverloadedError
from batchyard.serving.front import Cancellable, FrontServer, Metadata, Method
from tests.serving.harness import detail, reason_of, refusal, until

PATH = "/test.Service/Wait"


class Waiting:
    """A method whose calls wait until the test answers them, or are refused."""

    def __init__(self) -> None:
        self.parsed = 0
        self.refusal: OverloadedError | None = None
        self.calls: list[tuple[bytes, float | None, Callable[[bytes | Exception], None]]] = []
        self.cancelled = 0

    def begin(
        self, request: bytes, seconds: float | None, metadata: Metadata, done: Callable[[bytes | Exception], None]
    ) -> Cancellable:
        if self.refusal is not None:
            raise self.refusal
        if request == b"at once":
            done(b"answered")
        else:
            self.calls.append((request, seconds, done))
        return self

    def cancel(self) -> None:
        self.cancelled += 1

    def parse(self, packed: bytes) -> bytes:
        self.parsed += 1
        return packed

    def look(self, packed: bytes) -> OverloadedError | None:
        return None if packed == b"unclear" else self.refusal


@pytest.fixture
async def front() -> AsyncIterator[tuple[FrontServer, Waiting, Any]]:
    pytest.importorskip("pygrpc_native")
    waiting = Waiting()
    server = FrontServer(Method(PATH, waiting.parse, waiting.begin, waiting.look), None, grpc.aio.server(), 1000)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield server, waiting, channel.unary_unary(PATH, None, None)
    await server.stop(0)


async def test_a_call_may_be_answered_before_its_method_returns(front: tuple[FrontServer, Waiting, Any]) -> None:
    _, waiting, call = front
    assert await call(b"at once") == b"answered"
    assert waiting.calls == []


async def test_calls_under_way_end_in_time_when_the_server_stops_and_new_ones_are_refused(
    front: tuple[FrontServer, Waiting, Any],
) -> None:
    server, waiting, call = front
    asked = asyncio.ensure_future(call(b"wait"))
    await until(lambda: waiting.calls, "the call arrives")
    stopping = asyncio.create_task(server.stop(30))
    code, _, status = await refusal(call(b"too late"))
    assert (code, reason_of(status)) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    waiting.calls[0][2](b"in time")
    assert await asked == b"in time"
    await asyncio.wait_for(stopping, 20)


async def test_calls_that_outlast_the_grace_are_told_that_the_server_stops(
    front: tuple[FrontServer, Waiting, Any],
) -> None:
    server, waiting, call = front
    asked = asyncio.ensure_future(call(b"wait"))
    await until(lambda: waiting.calls, "the call arrives")
    _, (code, _, status) = await asyncio.gather(server.stop(0.01), refusal(asked))
    assert (code, reason_of(status)) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    assert waiting.cancelled == 1


async def test_a_method_hears_of_the_deadline_and_of_leaving_callers(
    front: tuple[FrontServer, Waiting, Any],
) -> None:
    _, waiting, call = front
    leaving = call(b"wait", timeout=100)
    await until(lambda: waiting.calls, "the call arrives")
    assert 90 < (waiting.calls[0][1] or 0) < 110  # a client rounds up as it likes
    leaving.cancel()
    await until(lambda: waiting.cancelled == 1, "the method hears of it")


async def test_an_answer_to_a_caller_who_has_left_goes_nowhere(front: tuple[FrontServer, Waiting, Any]) -> None:
    _, waiting, call = front
    leaving = call(b"wait")
    await until(lambda: waiting.calls, "the call arrives")
    leaving.cancel()
    await until(lambda: waiting.cancelled == 1, "the method hears of it")
    waiting.calls[0][2](b"too late")
    assert await call(b"at once") == b"answered"


async def test_in_an_overload_calls_are_refused_unread_until_there_is_room_again(
    front: tuple[FrontServer, Waiting, Any],
) -> None:
    _, waiting, call = front
    waiting.refusal = OverloadedError("full", reason="QUEUE_FULL", retry_after=0.5)
    for _ in range(3):
        code, message, status = await refusal(call(b"at once"))
        assert (code, message) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        assert reason_of(status) == "QUEUE_FULL"
        assert detail(status, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() == 500
    assert waiting.parsed == 1
    await refusal(call(b"unclear"))
    assert waiting.parsed == 2
    waiting.refusal = None
    assert await call(b"at once") == b"answered"


async def test_what_a_refusal_says_is_what_it_says_now(front: tuple[FrontServer, Waiting, Any]) -> None:
    _, waiting, call = front
    for message in ("full", "full", "still full"):
        waiting.refusal = OverloadedError(message, reason="QUEUE_FULL", retry_after=0.5)
        assert (await refusal(call(b"at once")))[1] == message


async def test_too_large_a_message_is_told_so_in_an_overload_too(front: tuple[FrontServer, Waiting, Any]) -> None:
    _, waiting, call = front
    waiting.refusal = OverloadedError("full", reason="QUEUE_FULL", retry_after=0.5)
    await refusal(call(b"at once"))
    with pytest.raises(grpc.aio.AioRpcError, match="larger than max"):
        await call(bytes(1001))
