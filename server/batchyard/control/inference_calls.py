"""What the dashboard asks of the inference plane: predictions, the times of its engines, the inputs that it sampled."""

from __future__ import annotations

import hashlib
import io
import json
import math
import time
from array import array
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from batchyard.control import names
from batchyard.control.inference_plane import InferencePlane
from batchyard.control.records import ModelVersion
from batchyard.control.uploads import FileHeader
from batchyard.endpoint.errors import (
    DeadlineError,
    DomainError,
    FieldViolation,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    PreconditionError,
    UnavailableError,
)
from batchyard.oip import Stub, messages
from batchyard.v1 import shift_pb2, shift_pb2_grpc

SECONDS = 30.0
"""The longest that one call may take."""
CHUNK = 1 << 20
MOST_SAMPLED_BYTES = 256 << 20
"""Of sampled inputs: what an inference plane keeps is far less."""
INPUTS = "inputs"

KINDS: dict[grpc.StatusCode, type[DomainError]] = {
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
}


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a version says of one picture."""

    probabilities: tuple[float, ...]
    """Softmax of its logits, in the order of the classes."""
    seconds: float
    """From this process to the inference plane and back."""


class InferenceCalls:
    """Calls to the inference plane beside the control plane. Each raises UnavailableError where there is none."""

    def __init__(self, plane: InferencePlane) -> None:
        self._plane = plane

    async def predict(self, version: ModelVersion, pixels: bytes) -> Prediction:
        """Class probabilities of one picture: raw UINT8 pixels [channels, height, width] of the version's input.

        Raises InvalidInputError for another number of bytes, NotFoundError for a version that is not served.
        """
        signature, output = version.manifest.inputs[0], version.manifest.outputs[0]
        check_pixels(version, len(pixels))
        request = messages.ModelInferRequest(model_name=version.model, model_version=str(version.number))
        request.inputs.add(name=signature.name, datatype="UINT8", shape=[1, *signature.shape[1:]])
        request.outputs.add(name=output.name)
        request.raw_input_contents.append(pixels)
        async with self._call() as channel:
            began = time.perf_counter()
            answer = await Stub(channel).ModelInfer(request, timeout=SECONDS, metadata=self._plane.metadata())
            seconds = time.perf_counter() - began
        return Prediction(probabilities=softmax(array("f", answer.raw_output_contents[0])), seconds=seconds)

    async def engines(self, version: ModelVersion) -> Mapping[str, Any]:
        """Who serves the version and what was measured of each engine, as ModelConfig's parameters have it.

        Raises NotFoundError for a version that is not served.
        """
        request = messages.ModelConfigRequest(name=version.model, version=str(version.number))
        async with self._call() as channel:
            answer = await Stub(channel).ModelConfig(request, timeout=SECONDS, metadata=self._plane.metadata())
        told = {name: parameter.string_value for name, parameter in answer.config.parameters.items()}
        return {
            "engine": told.get("engine", ""),
            "choice": told.get("engine_choice", ""),
            "timings": json.loads(told.get("engine_timings", "null")),
        }

    async def sampled_inputs(self, version: ModelVersion) -> AsyncIterator[FileHeader | bytes]:
        """The file `inputs` for a recalibration: the newest inputs that the version was asked about.

        Raises NotFoundError for a version that is not served, PreconditionError where no inputs are kept.
        """
        request = shift_pb2.GetSampledInputsRequest(model=version.model, version=str(version.number))
        async with self._call(MOST_SAMPLED_BYTES) as channel:
            stub: Any = shift_pb2_grpc.ShiftServiceStub(channel)
            found = await stub.GetSampledInputs(request, timeout=SECONDS, metadata=self._plane.metadata())
        return as_upload(npz(found))

    @asynccontextmanager
    async def _call(self, most_bytes: int = 4 << 20) -> AsyncIterator[grpc.aio.Channel]:
        """A channel for one call; what the plane answers instead is raised as the domain's errors are."""
        try:
            async with self._plane.channel(most_bytes) as channel:
                yield channel
        except grpc.aio.AioRpcError as error:
            raise domain_error(error) from error


def domain_error(error: grpc.aio.AioRpcError) -> DomainError:
    """What the inference plane answered, as an error of ours."""
    said, code = error.details() or "it gave no reason", error.code()
    reason = f"INFERENCE_{code.name}"
    if code == grpc.StatusCode.INVALID_ARGUMENT:
        return InvalidInputError([FieldViolation("body", said)])
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return OverloadedError(said, reason=reason, retry_after=1.0)
    return KINDS.get(code, UnavailableError)(f"the inference plane says: {said}", reason=reason)


def check_pixels(version: ModelVersion, size: int) -> None:
    """Raises InvalidInputError unless `size` bytes are one picture of the version's input."""
    shape = version.manifest.inputs[0].shape[1:]
    if size != math.prod(shape):
        name = names.version(version.model, version.number)
        expected = f"{math.prod(shape)}, UINT8 pixels {list(shape)} of {name}"
        raise InvalidInputError([FieldViolation("body", f"{size} bytes given; expected {expected}")])


def softmax(logits: array[float]) -> tuple[float, ...]:
    """Probabilities that add up to 1."""
    most = max(logits)
    powers = [math.exp(logit - most) for logit in logits]
    return tuple(power / sum(powers) for power in powers)


def npz(found: shift_pb2.SampledInputs) -> bytes:
    """Sampled inputs as an NPZ file with the array `inputs`."""
    import numpy as np

    datatype = np.uint8 if found.datatype == "UINT8" else np.dtype("<f4")
    buffer = io.BytesIO()
    np.savez(buffer, inputs=np.frombuffer(found.raw, datatype).reshape(found.shape))
    return buffer.getvalue()


async def as_upload(content: bytes) -> AsyncIterator[FileHeader | bytes]:
    """A file as it would arrive over gRPC: its header, then its chunks."""
    yield FileHeader(name=INPUTS, size=len(content), sha256=hashlib.sha256(content).hexdigest())
    for at in range(0, len(content), CHUNK):
        yield content[at : at + CHUNK]
