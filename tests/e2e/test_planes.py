"""One control plane, two inference planes on the two transports: both follow it, and `model set` reaches both, live."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from batchyard.artifact.reader import read_certified_manifest
from batchyard.cluster.fake_executor import FakeExecutor
from batchyard.control.ledger import Unit
from batchyard.control.store import models as store
from batchyard.oip import Stub, messages
from batchyard.serving.app import InferencePlane
from batchyard.serving.settings import Control, Settings
from batchyard.v1 import models_pb2
from bench.small_artifact import SmallNetwork, publish
from tests.control.harness import Service, control_plane
from tests.serving.harness import assert_is_answer, logits_of, request_for, until

LONG_ROWS = 16384
"""In batches of one row each they keep the engine busy for a few tenths of a second."""


class Planes:
    """The two, and how to ask them."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.service, self.folder = service, folder
        self.planes: list[InferencePlane] = []
        self.stubs: list[Any] = []

    async def add(self, transport: Any, stack: AsyncExitStack) -> None:
        """Starts one more."""
        settings = Settings(
            control=Control(address=self.service.plane.grpc_address),
            cache=self.folder / f"cache-{len(self.planes)}",
            grpc="127.0.0.1:0",
            http="127.0.0.1:0",
            transport=transport,
            engines=("onnxruntime",),
        )
        plane = InferencePlane(settings)
        await plane.start()
        stack.push_async_callback(self.lose, plane)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(plane.grpc_address))
        self.planes.append(plane)
        self.stubs.append(Stub(channel))

    async def lose(self, plane: InferencePlane) -> None:
        """Stops one, unless it is stopped."""
        if plane in self.planes:
            self.planes.remove(plane)
            await plane.stop()

    async def publish(self, number: int) -> None:
        """Registers a version whose weights come from its number."""
        uri = self.folder / f"artifact-{number}"
        digest = publish(uri, SmallNetwork(seed=number))

        def register(unit: Unit) -> None:
            store.add_version(unit.connection, read_certified_manifest(str(uri), digest), str(uri), digest, unit.now)
            unit.models_changed = True

        await self.service.plane.registry._ledger.write(register)

    async def until_all(self, number: int) -> None:
        """Waits until every plane answers with this version."""
        wanted = [str(number)] * len(self.planes)
        await until(lambda: [*map(version_of, self.planes)] == wanted, f"every plane answers with version {number}")

    async def set(self, *flags: str) -> None:
        """`batchyard model set mnist FLAGS`."""
        command = (sys.executable, "-m", "batchyard.cli", "model", "set", "mnist", *flags)
        control = ("--control", self.service.plane.grpc_address)
        process = await asyncio.create_subprocess_exec(*command, *control, stdout=asyncio.subprocess.DEVNULL)
        assert await process.wait() == 0


def version_of(plane: InferencePlane) -> str:
    served = plane.repository.served_versions("mnist")
    return plane.repository.resolve("mnist", "").version if served else ""


@pytest.fixture
async def planes(tmp_path: Path) -> AsyncIterator[Planes]:
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(control_plane(tmp_path / "data", FakeExecutor(workers=1)))
        both = Planes(service, tmp_path)
        await both.publish(1)
        for transport in ("native", "grpcio"):
            await both.add(transport, stack)
        await both.until_all(1)
        yield both


async def test_every_inference_plane_follows_and_one_that_is_gone_is_missed_by_nobody(planes: Planes) -> None:
    pixels = SmallNetwork().pixels(3)
    await planes.publish(2)
    await planes.until_all(2)
    for stub in planes.stubs:
        assert_is_answer(logits_of(await stub.ModelInfer(request_for(pixels))), SmallNetwork(seed=2), pixels)
    await planes.lose(planes.planes[0])
    alias = models_pb2.SetAliasRequest(model="models/mnist", alias="production", version=1)
    await planes.service.models.SetAlias(alias)
    await planes.until_all(1)
    answer = logits_of(await planes.stubs[1].ModelInfer(request_for(pixels)))
    assert_is_answer(answer, SmallNetwork(seed=1), pixels)


def patient(rows: int) -> messages.ModelInferRequest:
    """A request with a timeout of its own, a minute."""
    request = request_for(np.zeros((rows, 1, 28, 28), np.uint8))
    request.parameters["timeout"].int64_param = 60_000_000
    return request


async def code(stub: Any, request: messages.ModelInferRequest) -> grpc.StatusCode:
    """How it is answered."""
    try:
        await stub.ModelInfer(request, timeout=60)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_a_timeout_that_is_set_counts_on_every_plane_at_once_and_is_taken_back_again(planes: Planes) -> None:
    ok, late = grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED
    served = [plane.repository.resolve("mnist", "") for plane in planes.planes]
    short = request_for(SmallNetwork().pixels(1))

    async def until_heard(timeout: float | None, override: bool) -> None:
        heard = (timeout, override)
        await until(
            lambda: all((s.policy.timeout, s.policy.override_timeout) == heard for s in served), "both have heard"
        )

    async def behind_a_long_one(number: int) -> list[grpc.StatusCode]:
        long = asyncio.create_task(code(planes.stubs[number], patient(LONG_ROWS)))
        await until(lambda: served[number].batcher.queued_rows > 0, "the long request waits")
        behind = await code(planes.stubs[number], short)
        return [await long, behind]

    await planes.set("--max-batch", "1", "--timeout", "1ms")
    await until_heard(0.001, override=True)
    assert [await behind_a_long_one(number) for number in (0, 1)] == [[ok, late]] * 2
    await planes.set("--timeout-override", "no")
    await until_heard(0.001, override=False)
    assert [await code(stub, patient(LONG_ROWS)) for stub in planes.stubs] == [late] * 2
    await planes.set("--timeout", "default", "--timeout-override", "default")
    await until_heard(None, override=True)
    assert [await behind_a_long_one(number) for number in (0, 1)] == [[ok, ok]] * 2
