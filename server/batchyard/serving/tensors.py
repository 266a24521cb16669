"""From a ModelInferRequest to rows of pixels, and from logits to a reply, without a tensor ever being a Python list.

Protocol: Open Inference Protocol v2, "Tensor Data" (row-major, little-endian, no padding), with Triton's raw contents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from batchyard.endpoint.errors import FieldViolation, InvalidInputError
from batchyard.oip.messages import ModelInferRequest
from batchyard.serving.request_bytes import Received
from batchyard.serving.shared_memory import REGION, SIZE, SharedMemory, span_of
from batchyard.serving.shown import shown as shown

Pixels = NDArray[np.float32] | NDArray[np.uint8]

DATATYPES: dict[str, tuple[np.dtype[Any], str]] = {
    "FP32": (np.dtype("<f4"), "fp32_contents"),
    "UINT8": (np.dtype("u1"), "uint_contents"),
}
"""Datatype that pixels may have -> (NumPy's name for it, the typed field that carries it)."""


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """The one input of a model version."""

    model: str
    """For messages: the model and its version."""
    name: str
    row_shape: tuple[int, ...]
    """Without the batch: [channels, height, width]."""
    features: int
    """Values in one row."""
    max_rows: int
    """Most rows of one request."""

    def invalid(self, field: str, problem: str) -> InvalidInputError:
        """An error that names the model, its input and the field of the request."""
        where = f"inputs[{shown(self.name)}].{field}" if field else f"inputs[{shown(self.name)}]"
        return InvalidInputError([FieldViolation(where, f"model {self.model}: {problem}")], reason="INVALID_TENSOR")


class Form(NamedTuple):
    """What a tensor is, once it was held against what a model takes."""

    spec: InputSpec
    dtype: np.dtype[Any]
    rows: int


def read_rows(received: Received, spec: InputSpec, shared_memory: SharedMemory) -> Pixels:
    """The request's pixels, [rows, features], all finite, a view of the message's own bytes where they came raw.

    Raises InvalidInputError naming model, tensor and field; NotFoundError for an unknown region of shared memory.
    """
    head, left_out = received
    if left_out is None:
        rows = _read(head.request, head.request.raw_input_contents, spec, shared_memory)
    elif head.form is not None and head.form.spec is spec:  # then as many bytes were left out as before
        rows = np.frombuffer(left_out, head.form.dtype).reshape(head.form.rows, spec.features)
    else:
        rows = _read(head.request, (left_out,), spec, shared_memory)
        head.form = Form(spec, rows.dtype, len(rows))
    if rows.dtype.kind == "f":
        _check_finite(rows, spec)
    return rows


def _check_finite(rows: Pixels, spec: InputSpec) -> None:
    """No pixel is NaN or infinite, and what the network makes of one that is helps nobody."""
    # 0.5 us for 784 values. all() takes longer than to find a zero byte, so do min and max; a sum of squares overflows.
    if 0 in np.isfinite(rows).tobytes():
        finite = np.isfinite(rows).all(axis=1)
        raise spec.invalid("", f"row {int(finite.argmin())} holds NaN or infinity; every value must be finite")


def _read(
    request: ModelInferRequest, raw: Sequence[bytes | memoryview], spec: InputSpec, shared_memory: SharedMemory
) -> Pixels:
    tensors = request.inputs
    if len(tensors) != 1:
        names = ", ".join(shown(tensor.name) for tensor in tensors[:3])
        raise spec.invalid("", f"got {len(tensors)} inputs ({names}); expected exactly one, {spec.name!r}")
    tensor = tensors[0]
    if tensor.name != spec.name:
        raise spec.invalid("", f"got an input named {shown(tensor.name)}; expected {spec.name!r}")
    datatype = tensor.datatype
    if datatype not in DATATYPES:
        raise spec.invalid(
            "datatype", f"got {shown(datatype)}; expected {' or '.join(DATATYPES)} with raw pixels, 0 to 255"
        )
    rows = _rows_of(tensor.shape, spec)
    if tensor.parameters and REGION in tensor.parameters:
        if raw or tensor.HasField("contents"):
            raise spec.invalid("", "got both a shared memory region and contents; send one of them")
        return _from_shared_memory(tensor, rows, spec, shared_memory)
    if raw:
        if len(raw) != 1:
            raise spec.invalid("raw_input_contents", f"got {len(raw)} entries for one input")
        if tensor.HasField("contents"):
            raise spec.invalid("contents", "got both contents and raw_input_contents; send one of them")
        return _from_raw(raw[0], datatype, rows, spec)
    return _from_typed(tensor, rows, spec)


def _rows_of(shape: Sequence[int], spec: InputSpec) -> int:
    """The batch size, after checking every dimension; in Python's integers, which do not overflow."""
    rest = tuple(shape[1:9])
    if len(shape) > 9 or (rest != spec.row_shape and rest != (spec.features,)):
        raise spec.invalid("shape", f"got {_shape_text(shape)}; expected {_expected(spec)}")
    rows = shape[0]
    if rows < 1:
        raise spec.invalid("shape", f"got {_shape_text(shape)}; the batch must have at least one row")
    if rows > spec.max_rows:
        raise spec.invalid("shape", f"got {rows} rows; one request may have at most {spec.max_rows}; send several")
    return rows


def _expected(spec: InputSpec) -> str:
    full = ", ".join(str(size) for size in spec.row_shape)
    return f"[N, {full}]" if len(spec.row_shape) == 1 else f"[N, {full}] or [N, {spec.features}]"


def _shape_text(shape: Sequence[int]) -> str:
    return f"{list(shape[:8])}" if len(shape) <= 8 else f"{len(shape)} dimensions"


def _from_raw(raw: bytes | memoryview, datatype: str, rows: int, spec: InputSpec) -> Pixels:
    dtype, _ = DATATYPES[datatype]
    expected = rows * spec.features * dtype.itemsize
    if len(raw) != expected:
        raise spec.invalid(
            "raw_input_contents",
            f"got {len(raw)} bytes; {rows} rows of {spec.features} {datatype} values are {expected} bytes",
        )
    return np.frombuffer(raw, dtype).reshape(rows, spec.features)


def _from_shared_memory(
    tensor: ModelInferRequest.InferInputTensor, rows: int, spec: InputSpec, shared_memory: SharedMemory
) -> Pixels:
    span = span_of(tensor.parameters, spec.model, f"inputs[{spec.name!r}]")
    dtype, _ = DATATYPES[tensor.datatype]
    expected = rows * spec.features * dtype.itemsize
    if span.byte_size != expected:
        problem = f"got {span.byte_size}; {rows} rows of {spec.features} {tensor.datatype} values are {expected} bytes"
        raise spec.invalid(f"parameters[{SIZE}]", problem)
    return shared_memory.read(span).view(dtype).reshape(rows, spec.features)


def _from_typed(tensor: ModelInferRequest.InferInputTensor, rows: int, spec: InputSpec) -> Pixels:
    dtype, field = DATATYPES[tensor.datatype]
    filled = [descriptor.name for descriptor, _ in tensor.contents.ListFields()]
    if filled != [field]:
        given = ", ".join(filled) or "nothing"
        raise spec.invalid("contents", f"got {given}; {tensor.datatype} goes into raw_input_contents or {field}")
    values = getattr(tensor.contents, field)
    if len(values) != rows * spec.features:
        raise spec.invalid(
            f"contents.{field}", f"got {len(values)} values; {rows} rows of {spec.features} are {rows * spec.features}"
        )
    if tensor.datatype == "FP32":
        return np.fromiter(values, dtype, len(values)).reshape(rows, spec.features)
    wide = np.fromiter(values, np.uint32, len(values))
    if int(wide.max()) > 255:
        raise spec.invalid(f"contents.{field}", f"got {int(wide.max())}; UINT8 values are 0 to 255")
    return wide.astype(dtype).reshape(rows, spec.features)


def classify(scores: NDArray[np.float32], count: int, labels: Sequence[str]) -> tuple[bytes, int]:
    """The classification extension: for each row of scores the `count` best, best first, each "score:index:label".

    Returns the BYTES tensor (each element after its length in 4 bytes, little-endian) and the elements in a row.
    """
    count = min(count, scores.shape[1])
    best = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    packed = bytearray()
    for row, order in zip(scores, best, strict=True):
        for index in order:
            label = f":{labels[index]}" if index < len(labels) else ""
            element = f"{row[index]:f}:{index}{label}".encode()
            packed += len(element).to_bytes(4, "little") + element
    return bytes(packed), count
