"""The whole service in a test: the control plane, its inference plane as a child, and a cluster that does as told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import numpy as np

from batchyard.cluster.executor import Attempt
from batchyard.cluster.fake_executor import FakeExecutor
from batchyard.control.app import ControlPlane
from batchyard.control.inference_flags import InferenceFlags
from batchyard.control.settings import Settings
from batchyard.oip import Stub, messages
from batchyard.training.events import Ended, Event, LogLine, Published
from tests.control.harness import PATIENCE
from tests.serving.probed import ProbedNetwork

SPEC: dict[str, Any] = {
    "name": "digits",
    "model": {"architecture": "mlp"},
    "data": {"dataset": "mnist"},
    "steps": 100,
    "retries": 0,
    "publish": {"model": "mnist", "alias": "production"},
}
FLAGS = InferenceFlags(shift_sample_rate=1.0, engines="onnxruntime")


@dataclass
class Service:
    """A service that answers."""

    folder: Path
    plane: ControlPlane
    cluster: FakeExecutor
    session: aiohttp.ClientSession
    inference: Any
    """Open Inference Protocol stub; None without an inference plane."""

    @property
    def url(self) -> str:
        """Of the dashboard."""
        return f"http://{self.plane.http_address}"

    async def json(self, path: str, status: int = 200) -> Any:
        async with self.session.get(self.url + path) as response:
            assert response.status == status, await response.text()
            return await response.json()

    async def publish(self, network: ProbedNetwork, **spec: Any) -> str:
        """Has a job publish `network` as a version of mnist, alias production; its id, once the version answers."""

        def publishes(attempt: Attempt) -> Iterable[Event]:
            yield LogLine(level="INFO", rank=0, text="mnist: 60000 samples")
            yield _published(network, attempt)
            yield Ended(outcome="succeeded")

        self.cluster.script = publishes
        job = await self.plane.jobs.create({**SPEC, **spec})
        await until(lambda: self.plane.jobs.get(job.id), lambda found: found.state == "SUCCEEDED")
        number = (await self.plane.registry.get_model("mnist")).latest_version
        await until(lambda: self.ready(str(number)), bool)
        return job.id

    async def ready(self, version: str, model: str = "mnist") -> bool:
        request = messages.ModelReadyRequest(name=model, version=version)
        return bool((await self.inference.ModelReady(request, wait_for_ready=True)).ready)

    async def ask(self, pixels: np.ndarray[Any, Any], version: str = "", model: str = "mnist") -> Any:
        """One inference over the Open Inference Protocol."""
        request = messages.ModelInferRequest(model_name=model, model_version=version)
        request.inputs.add(name="pixels", datatype="UINT8", shape=pixels.shape)
        request.raw_input_contents.append(pixels.tobytes())
        return await self.inference.ModelInfer(request)


def _published(network: ProbedNetwork, attempt: Attempt) -> Published:
    about: dict[str, Any] = {
        "job": attempt.id.job, "attempt": attempt.id.number, "spec": attempt.spec, "created": time.time(),
        "dataset": "mnist", "dataset_sha256": "ab" * 32, "libraries": {"torch": "2.13.0", "batchyard": "0.1.0"},
        "classes": tuple("0123456789"),
    }  # fmt: skip
    uri = attempt.artifact_uri.removeprefix("file://")
    sha256 = network.published(Path(uri), **about)
    return Published(artifact_uri=attempt.artifact_uri, manifest_sha256=sha256)


async def until(ask: Callable[[], Any], holds: Callable[[Any], bool]) -> Any:
    """What `ask` answers, once it holds."""
    deadline = time.monotonic() + PATIENCE
    while not holds(found := await ask()):
        assert time.monotonic() < deadline, f"{found} found to the end"
        await asyncio.sleep(0.02)
    return found


@asynccontextmanager
async def whole_service(folder: Path, inference: bool = True) -> AsyncIterator[Service]:
    """A control plane, with an inference plane if that is wished for, on free ports; both are gone at the end."""
    address = "127.0.0.1:0"
    settings = Settings(
        data_dir=folder / "data", grpc=address, http=address, inference_grpc=address, inference_http=address,
        inference=inference, inference_flags=FLAGS, executor="local",
    )  # fmt: skip
    cluster = FakeExecutor()
    plane = ControlPlane(settings, executor=cluster)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(plane.stop)
        await plane.start()
        session = await stack.enter_async_context(aiohttp.ClientSession())
        stub = None
        if inference:
            channel = grpc.aio.insecure_channel(plane.inference_plane.where().grpc)
            stub = Stub(await stack.enter_async_context(channel))
        yield Service(folder, plane, cluster, session, stub)
