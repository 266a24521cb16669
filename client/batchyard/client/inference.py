"""The inference plane's calls: any Open Inference Protocol server, numpy in and out, one connection."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from batchyard.client import errors
from batchyard.client.calls import Caller
from batchyard.client.shadow import Shadow
from batchyard.client.shift import Shift
from batchyard.client.tensors import Array, make_request, read_outputs
from batchyard.oip import Stub, messages


@dataclass(frozen=True, eq=False)
class InferResult:
    """The answer to one inference."""

    model: str
    version: str
    """The version that answered."""
    outputs: dict[str, Array]
    """Output name to array."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """Class probabilities of N samples."""

    model: str
    version: str
    """The version that answered."""
    probabilities: Array
    """[N, classes], float64: softmax of the model's logits."""

    @property
    def labels(self) -> Array:
        """[N]: index of the most probable class."""
        return np.asarray(self.probabilities.argmax(axis=1))


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a served version has counted since it was loaded."""

    model: str
    version: str
    answered: int
    """Requests."""
    failed: int
    """Requests."""
    queue_seconds: float
    """Time that the answered requests have waited, all together."""
    request_seconds: float
    """Time from the arrival of the answered requests to their replies, all together."""
    rows: int
    batches: int


class Inference:
    """Calls to one inference plane. Thread-safe."""

    def __init__(self, channel: grpc.Channel, caller: Caller) -> None:
        self._stub, self._call = Stub(channel), caller
        self.shift = Shift(channel, caller)
        """Covariate shift of its models."""
        self.shadow = Shadow(channel, caller)
        """How the answers of its models' shadows compare."""

    def server_ready(self) -> bool:
        """Whether every model that should be served is. Raises RpcError."""
        return bool(self._call(self._stub.ServerReady, messages.ServerReadyRequest()).ready)

    def model_ready(self, model: str, version: str = "") -> bool:
        """Whether the model answers. Raises RpcError."""
        request = messages.ModelReadyRequest(name=model, version=version)
        return bool(self._call(self._stub.ModelReady, request).ready)

    def metadata(self, model: str, version: str = "") -> messages.ModelMetadataResponse:
        """Versions, inputs and outputs of a model. Raises RpcError."""
        request = messages.ModelMetadataRequest(name=model, version=version)
        response: messages.ModelMetadataResponse = self._call(self._stub.ModelMetadata, request)
        return response

    def config(self, model: str, version: str = "") -> messages.ModelConfig:
        """How a model is batched and run; `parameters` hold what the engines took. Raises RpcError."""
        request = messages.ModelConfigRequest(name=model, version=version)
        response: messages.ModelConfigResponse = self._call(self._stub.ModelConfig, request)
        return response.config

    def counts(self, model: str = "") -> list[Counts]:
        """What each served version has counted since it was loaded; all models where none is named. Raises RpcError."""
        request = messages.ModelStatisticsRequest(name=model)
        return [_counts(each) for each in self._call(self._stub.ModelStatistics, request).model_stats]

    def infer(
        self, model: str, inputs: Mapping[str, Array], *, version: str = "", timeout: float | None = None
    ) -> InferResult:
        """One inference. Raises RpcError, TensorError."""
        return _result(self._call(self._stub.ModelInfer, make_request(model, version, inputs), timeout=timeout))

    def infer_many(
        self, model: str, batches: Iterable[Mapping[str, Array]], *, version: str = "", concurrency: int = 16
    ) -> Iterator[InferResult]:
        """One inference for each of `batches`, at most `concurrency` of them in flight; results in the order asked.

        A request that found the service unavailable is tried again. Raises RpcError, TensorError.
        """
        if concurrency < 1:
            raise ValueError(f"concurrency: {concurrency} given; expected 1 or more")
        under_way: deque[tuple[messages.ModelInferRequest, Any]] = deque()
        try:
            for inputs in batches:
                if len(under_way) == concurrency:
                    yield self._finish(*under_way.popleft())
                request = make_request(model, version, inputs)
                under_way.append((request, self._begin(request)))
            while under_way:
                yield self._finish(*under_way.popleft())
        finally:
            for _, future in under_way:
                future.cancel()

    def predict(self, model: str, pixels: Array, *, version: str = "", timeout: float | None = None) -> Prediction:
        """Class probabilities of images, raw pixels from 0 to 255, in the model's shape [N, C, H, W] or without N, or
        without C where the model takes one channel. Raises RpcError, TensorError.
        """
        described = self.metadata(model, version)
        if len(described.inputs) != 1 or not described.outputs:
            tensors = f"{len(described.inputs)} inputs and {len(described.outputs)} outputs"
            raise errors.TensorError(f"{model}: has {tensors}; predict() needs one input", hint="Use infer().")
        wanted = described.inputs[0]
        batch = as_batch(np.asarray(pixels), tuple(wanted.shape), model)
        if batch.dtype != np.uint8:
            batch = batch.astype(np.float32)
        result = self.infer(model, {wanted.name: batch}, version=version, timeout=timeout)
        return Prediction(result.model, result.version, softmax(result.outputs[described.outputs[0].name]))

    def _begin(self, request: messages.ModelInferRequest) -> Any:
        return self._stub.ModelInfer.future(request, timeout=self._call.timeout, metadata=self._call.metadata)

    def _finish(self, request: messages.ModelInferRequest, future: Any) -> InferResult:
        try:
            return _result(future.result())
        except grpc.RpcError as error:
            failure = self._call.failure(error)
        if not isinstance(failure, errors.UnavailableError):
            raise failure
        return _result(self._call(self._stub.ModelInfer, request))


def as_batch(pixels: Array, shape: tuple[int, ...], model: str) -> Array:
    """`pixels` as [N, *shape[1:]]: axes of size one that may be left out are put in. Raises TensorError."""
    sample = shape[1:]
    for given in (pixels, pixels[np.newaxis]):
        if given.ndim == len(shape) and given.shape[1:] == sample:
            return given
    if sample[:1] == (1,):
        for given in (pixels[np.newaxis, np.newaxis], pixels[:, np.newaxis] if pixels.ndim else pixels):
            if given.ndim == len(shape) and given.shape[1:] == sample:
                return given
    raise errors.TensorError(
        f"{model}: pixels of shape {list(pixels.shape)} given; expected {['N', *sample]}",
        hint="Resize the images to the model's shape.",
    )


def softmax(logits: Array) -> Array:
    """Probabilities over the last axis, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def _counts(counted: messages.ModelStatistics) -> Counts:
    statistics = counted.inference_stats
    return Counts(
        model=counted.name,
        version=counted.version,
        answered=statistics.success.count,
        failed=statistics.fail.count,
        queue_seconds=statistics.queue.ns / 1e9,
        request_seconds=statistics.success.ns / 1e9,
        rows=counted.inference_count,
        batches=counted.execution_count,
    )


def _result(response: messages.ModelInferResponse) -> InferResult:
    return InferResult(response.model_name, response.model_version, read_outputs(response))
