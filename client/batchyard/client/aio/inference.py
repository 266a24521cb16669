"""The inference plane's calls: any Open Inference Protocol server, numpy in and out, one connection."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any

import grpc.aio
import numpy as np

from batchyard.client import errors
from batchyard.client.aio.calls import AsyncCaller
from batchyard.client.aio.shadow import AsyncShadow
from batchyard.client.aio.shift import AsyncShift
from batchyard.client.aio.waiting import answer, begin
from batchyard.client.predictions import (
    PORTIONS_AT_ONCE,
    Counts,
    InferResult,
    Prediction,
    counts_of,
    pixel_inputs,
    portions,
    result_of,
    softmax,
)
from batchyard.client.tensors import Array, make_request
from batchyard.oip import Stub, messages


class AsyncInference:
    """Calls to one inference plane. Of one event loop."""

    def __init__(self, channel: grpc.aio.Channel, caller: AsyncCaller) -> None:
        self._stub, self._call = Stub(channel), caller
        self.shift = AsyncShift(channel, caller)
        """Covariate shift of its models."""
        self.shadow = AsyncShadow(channel, caller)
        """How the answers of its models' shadows compare."""

    async def server_ready(self) -> bool:
        """Whether every model that should be served is. Raises RpcError."""
        return bool((await self._call(self._stub.ServerReady, messages.ServerReadyRequest())).ready)

    async def model_ready(self, model: str, version: str = "") -> bool:
        """Whether the model answers. Raises RpcError."""
        request = messages.ModelReadyRequest(name=model, version=version)
        return bool((await self._call(self._stub.ModelReady, request)).ready)

    async def metadata(self, model: str, version: str = "") -> messages.ModelMetadataResponse:
        """Versions, inputs and outputs of a model. Raises RpcError."""
        request = messages.ModelMetadataRequest(name=model, version=version)
        response: messages.ModelMetadataResponse = await self._call(self._stub.ModelMetadata, request)
        return response

    async def config(self, model: str, version: str = "") -> messages.ModelConfig:
        """How a model is batched and run; `parameters` hold what the engines took. Raises RpcError."""
        request = messages.ModelConfigRequest(name=model, version=version)
        response: messages.ModelConfigResponse = await self._call(self._stub.ModelConfig, request)
        return response.config

    async def counts(self, model: str = "") -> list[Counts]:
        """What each served version has counted since it was loaded; all models where none is named. Raises RpcError."""
        request = messages.ModelStatisticsRequest(name=model)
        response = await self._call(self._stub.ModelStatistics, request)
        return [counts_of(each) for each in response.model_stats]

    async def infer(
        self, model: str, inputs: Mapping[str, Array], *, version: str = "", timeout: float | None = None
    ) -> InferResult:
        """One inference. Raises RpcError, TensorError."""
        return result_of(await self._call(self._stub.ModelInfer, make_request(model, version, inputs), timeout=timeout))

    async def infer_many(
        self, model: str, batches: Iterable[Mapping[str, Array]], *, version: str = "", concurrency: int = 16
    ) -> AsyncGenerator[InferResult, None]:
        """One inference for each of `batches`, at most `concurrency` of them in flight; results in the order asked.

        A request that found the service unavailable is tried again. Raises RpcError, TensorError.
        """
        if concurrency < 1:
            raise ValueError(f"concurrency: {concurrency} given; expected 1 or more")
        under_way: deque[tuple[messages.ModelInferRequest, Any]] = deque()
        try:
            for inputs in batches:
                if len(under_way) == concurrency:
                    yield await self._finish(*under_way.popleft())
                request = make_request(model, version, inputs)
                under_way.append((request, self._begin(request)))
            while under_way:
                yield await self._finish(*under_way.popleft())
        finally:
            for _, call in under_way:
                call.cancel()

    async def predict(
        self, model: str, pixels: Array, *, version: str = "", timeout: float | None = None
    ) -> Prediction:
        """Class probabilities of images, raw pixels from 0 to 255, in the model's shape [N, C, H, W] or without N, or
        without C where the model takes one channel. Many go in several requests, which one version answers. `timeout`
        is that of the first of them. Raises RpcError, TensorError.
        """
        described = await self.metadata(model, version)
        first, *others = portions(pixel_inputs(described, pixels, model))
        name = described.outputs[0].name
        result = await self.infer(model, first, version=version, timeout=timeout)
        logits = [result.outputs[name]]
        async for each in self.infer_many(model, others, version=result.version, concurrency=PORTIONS_AT_ONCE):
            logits.append(each.outputs[name])
        return Prediction(result.model, result.version, softmax(np.concatenate(logits)))

    def _begin(self, request: messages.ModelInferRequest) -> Any:
        return begin(self._stub.ModelInfer, request, timeout=self._call.timeout, metadata=self._call.metadata)

    async def _finish(self, request: messages.ModelInferRequest, call: Any) -> InferResult:
        try:
            return result_of(await answer(call))
        except grpc.RpcError as error:
            failure = self._call.failure(error)
        if not isinstance(failure, errors.UnavailableError):
            raise failure
        return result_of(await self._call(self._stub.ModelInfer, request))
