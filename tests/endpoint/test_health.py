"""grpc.health.v1 as its watchers see it, on both transports: none is forgotten, none holds up another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pygrpc_native.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from batchyard.endpoint.health import Health
from batchyard.endpoint.services import add_standard_services
from batchyard.endpoint.status import Guarded
from batchyard.oip import SERVICE_NAME
from batchyard.oip.contract import FILES

Response = health_pb2.HealthCheckResponse
LONGEST_SECONDS = 10.0


class Served:
    """A server with nothing but health and reflection, and a way to watch it."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.health: Health = add_standard_services(Guarded(server), FILES)
        self.port = server.add_insecure_port("127.0.0.1:0")

    async def start(self) -> None:
        await self.server.start()
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}")
        self.stub: Any = health_pb2_grpc.HealthStub(self.channel)

    async def stop(self) -> None:
        await self.channel.close(None)
        await self.server.stop(None)

    def watch(self, service: str = SERVICE_NAME) -> Any:
        return self.stub.Watch(health_pb2.HealthCheckRequest(service=service))


@pytest.fixture(params=[pygrpc_native.aio.server, grpc.aio.server], ids=["native", "grpcio"])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    made = Served(request.param())
    await made.start()
    yield made
    await made.stop()


async def heard(watch: Any) -> Any:
    """The state that the watcher hears next."""
    async with asyncio.timeout(LONGEST_SECONDS):
        return (await watch.read()).status


async def test_a_watcher_that_leaves_takes_no_other_with_it(served: Served) -> None:
    leaving, staying = served.watch(), served.watch()
    assert await heard(leaving) == await heard(staying) == Response.NOT_SERVING
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving.read()
    await served.health.set(True)
    assert await heard(staying) == Response.SERVING
    await served.health.set(False)
    assert await heard(staying) == Response.NOT_SERVING


async def test_a_watcher_that_does_not_read_holds_up_nobody(served: Served) -> None:
    silent, reading = served.watch(), served.watch()
    assert await heard(silent) == await heard(reading) == Response.NOT_SERVING
    for at in range(200):
        await served.health.set(at % 2 == 0)
    await served.health.set(True)
    while await heard(reading) != Response.SERVING:
        pass
    silent.cancel()


async def test_a_service_is_set_alone(served: Served) -> None:
    one, whole = served.watch(), served.watch("")
    assert await heard(one) == await heard(whole) == Response.NOT_SERVING
    await served.health.set(True, SERVICE_NAME)
    assert await heard(one) == Response.SERVING
    assert (await served.stub.Check(health_pb2.HealthCheckRequest())).status == Response.NOT_SERVING


async def test_an_unknown_service_is_told_so_and_heard_of_when_it_comes(served: Served) -> None:
    watch = served.watch("later")
    assert await heard(watch) == Response.SERVICE_UNKNOWN
    with pytest.raises(grpc.aio.AioRpcError, match="GRPCInferenceService") as caught:
        await served.stub.Check(health_pb2.HealthCheckRequest(service="later"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    await served.health.set(True, "later")
    assert await heard(watch) == Response.SERVING


async def test_at_the_end_watchers_are_told_and_hold_up_no_stop(served: Served) -> None:
    await served.health.set(True)
    watch = served.watch()
    assert await heard(watch) == Response.SERVING
    await served.health.close()
    assert await heard(watch) == Response.NOT_SERVING
    assert await watch.read() is grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs lack it
    await served.health.set(True)
    assert (await served.stub.Check(health_pb2.HealthCheckRequest())).status == Response.NOT_SERVING
    async with asyncio.timeout(LONGEST_SECONDS):
        await served.server.stop(60)
