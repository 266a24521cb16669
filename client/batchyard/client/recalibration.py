"""The messages of ModelService.RecalibrateModel."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator

import numpy as np

from batchyard.client.errors import TensorError
from batchyard.client.tensors import Array
from batchyard.v1.exchange_pb2 import FileHeader
from batchyard.v1.recalibration_pb2 import RecalibrateModelRequest, RecalibrationSpec

CHUNK = 1 << 20
"""Bytes in one message."""
INPUTS = "inputs"


def recalibration_requests(
    name: str, inputs: Array, prior: float, request_id: str = ""
) -> Iterator[RecalibrateModelRequest]:
    """The stream for the version `name` and raw pixels `inputs` [n, channels, height, width], n at least 2.

    Raises TensorError.
    """
    inputs = np.asarray(inputs)
    if inputs.ndim < 2 or len(inputs) < 2 or inputs.dtype.kind not in "fiu":
        given = f"{inputs.dtype} of shape {list(inputs.shape)}"
        raise TensorError(f"inputs: {given} given; expected numbers, at least 2 rows", hint="32 rows or more do well.")
    buffer = io.BytesIO()
    np.savez(buffer, inputs=inputs if inputs.dtype == np.uint8 else inputs.astype(np.float32))
    content = buffer.getvalue()
    header = FileHeader(path=INPUTS, size=len(content), sha256=hashlib.sha256(content).hexdigest())
    return _requests(RecalibrationSpec(name=name, prior=prior, request_id=request_id), header, content)


def _requests(spec: RecalibrationSpec, header: FileHeader, content: bytes) -> Iterator[RecalibrateModelRequest]:
    yield RecalibrateModelRequest(spec=spec)
    yield RecalibrateModelRequest(file=header)
    for at in range(0, len(content), CHUNK):
        yield RecalibrateModelRequest(chunk=content[at : at + CHUNK])
