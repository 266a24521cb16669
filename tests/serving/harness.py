"""A control plane's stream and an inference plane in the test's own event loop, and how to ask it things."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from numpy.typing import NDArray

from batchyard.endpoint.security import Security
from batchyard.endpoint.status import DETAILS_KEY
from batchyard.oip import Stub, messages
from batchyard.serving.app import InferencePlane
from batchyard.serving.settings import Control, Limits, Settings
from batchyard.v1 import models_pb2, models_pb2_grpc
from bench.small_artifact import SmallNetwork, publish

TIGHT = 1e-3
"""How near the served fp32 logits must be to the fp64 oracle's."""


async def until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> None:
    """Returns as soon as the condition holds; fails, naming it, when it does not in time."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"{seconds} s passed without: {what}"
        await asyncio.sleep(0.005)


class FakeControl(models_pb2_grpc.ModelServiceServicer):
    """WatchServedModels as the control plane answers it: the whole wish at once, again after each change."""

    def __init__(self) -> None:
        self.wish = models_pb2.WatchServedModelsResponse()
        self.watchers = 0
        self.metadata: list[dict[str, Any]] = []
        self._changed = asyncio.Event()
        self._server: Any = None
        self.port = 0

    async def start(self) -> None:
        """On the port of an earlier start, if there was one."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        models_pb2_grpc.add_ModelServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    def tell(self, *models: models_pb2.ServedModel) -> None:
        """Changes the wish; every watcher hears."""
        self.wish = models_pb2.WatchServedModelsResponse(models=models)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def WatchServedModels(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.watchers += 1
        self.metadata.append(dict(context.invocation_metadata()))
        try:
            while True:
                changed = self._changed
                yield self.wish
                await changed.wait()
        finally:
            self.watchers -= 1


class Serving:
    """One inference plane that follows a fake control plane."""

    def __init__(self, folder: Path, transport: Any) -> None:
        self.folder = folder
        self.transport = transport
        self.control = FakeControl()  # type: ignore[abstract]  # one call is all that is called
        self.plane: InferencePlane
        self.stub: Any
        self.channel: Any = None

    async def start(self, limits: Limits | None = None, security: Security | None = None, **more: Any) -> None:
        """Starts the control plane too unless it runs or `more` says otherwise."""
        if not self.control.port:
            await self.control.start()
        defaults = {
            "control": Control(address=f"127.0.0.1:{self.control.port}"),
            "cache": self.folder / "cache",
            "grpc": "127.0.0.1:0",
            "http": "127.0.0.1:0",
            "transport": self.transport,
            "limits": limits or Limits(),
            "engines": ("onnxruntime",),  # the tests of the engines try them all
            "security": security or Security(),
        }
        settings = Settings(**{**defaults, **more})
        self.plane = InferencePlane(settings)
        await self.plane.start()
        if settings.security.tls_cert is None:
            self.channel = grpc.aio.insecure_channel(self.plane.grpc_address)
            self.stub = Stub(self.channel)

    async def stop(self) -> None:
        if self.channel is not None:
            await self.channel.close()
        await self.plane.stop()

    def version(self, number: int, network: SmallNetwork | None = None, **how: Any) -> models_pb2.ModelVersion:
        """Publishes a version of `mnist`; its weights come from its number unless a network is given."""
        uri = self.folder / f"artifact-{number}"
        sha256 = publish(uri, network or SmallNetwork(seed=number), **how)
        return models_pb2.ModelVersion(
            name=f"models/mnist/versions/{number}", artifact_uri=str(uri), manifest_sha256=sha256
        )

    def wish(self, *versions: models_pb2.ModelVersion, aliases: Mapping[str, int] | None = None) -> None:
        """Wants these versions of `mnist` served; the last one is the latest."""
        latest = int(versions[-1].name.rpartition("/")[2])
        model = models_pb2.Model(name="models/mnist", latest_version=latest, aliases=aliases or {})
        self.control.tell(models_pb2.ServedModel(model=model, versions=versions))

    async def until_version(self, number: int, name: str = "mnist") -> None:
        """Waits until `name` is answered by this version."""
        await until(lambda: self.default_version(name) == str(number), f"{name} answers with version {number}")

    def default_version(self, name: str = "mnist") -> str | None:
        """Who answers to `name` now."""
        from batchyard.endpoint.errors import DomainError

        try:
            return self.plane.repository.resolve(name, "").version
        except DomainError:
            return None

    async def infer(
        self, pixels: NDArray[Any], model: str = "mnist", version: str = "", timeout: float | None = 30
    ) -> NDArray[np.float32]:
        """Logits of raw FP32 or UINT8 pixels."""
        response = await self.stub.ModelInfer(request_for(pixels, model, version), timeout=timeout)
        return logits_of(response)


def request_for(pixels: NDArray[Any], model: str = "mnist", version: str = "") -> messages.ModelInferRequest:
    """A request with the pixels raw."""
    datatype = {"float32": "FP32", "uint8": "UINT8"}[pixels.dtype.name]
    request = messages.ModelInferRequest(model_name=model, model_version=version, id="the id")
    request.inputs.add(name="pixels", datatype=datatype, shape=pixels.shape)
    request.raw_input_contents.append(pixels.tobytes())
    return request


def logits_of(response: messages.ModelInferResponse) -> NDArray[np.float32]:
    """The one FP32 output."""
    (output,) = response.outputs
    assert (output.name, output.datatype) == ("logits", "FP32")
    (raw,) = response.raw_output_contents
    return np.frombuffer(raw, np.float32).reshape(tuple(output.shape))


def assert_is_answer(logits: NDArray[np.float32], network: SmallNetwork, pixels: NDArray[Any]) -> None:
    """The logits are this network's for these pixels."""
    np.testing.assert_allclose(logits, network.oracle(pixels), atol=TIGHT, rtol=0)


async def refusal(call: Any) -> tuple[grpc.StatusCode, str, status_pb2.Status]:
    """Code, message and google.rpc.Status of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    trailing: Any = error.trailing_metadata()
    return error.code(), error.details() or "", status_pb2.Status.FromString(dict(trailing or ())[DETAILS_KEY])


def reason_of(status: status_pb2.Status) -> str:
    """ErrorInfo.reason."""
    return str(detail(status, error_details_pb2.ErrorInfo).reason)


def detail(status: status_pb2.Status, kind: Any) -> Any:
    """The status's detail of one kind."""
    found = kind()
    assert any(part.Unpack(found) for part in status.details), status
    return found
