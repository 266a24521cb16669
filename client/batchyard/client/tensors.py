"""numpy arrays to and from Open Inference Protocol tensors, through the raw contents.

Raw contents are row-major and little-endian without padding; a BYTES element carries its length before it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchyard.client.errors import TensorError
from batchyard.oip import messages

Array = NDArray[Any]

_TYPES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
_NAMES = {np.dtype(code): name for name, code in _TYPES.items()}
_LENGTH = struct.Struct("<I")


def make_request(model: str, version: str, inputs: Mapping[str, Array]) -> messages.ModelInferRequest:
    """The request that sends `inputs` (tensor name to array). Raises TensorError for an array of an unknown type."""
    request = messages.ModelInferRequest(model_name=model, model_version=version)
    for name, array in inputs.items():
        array = np.asarray(array)
        datatype, raw = _pack(name, array)
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(raw)
    return request


def read_outputs(response: messages.ModelInferResponse) -> dict[str, Array]:
    """Output name to array. Raises TensorError when the answer contradicts itself."""
    raw = response.raw_output_contents
    if len(raw) != len(response.outputs):
        raise TensorError(
            f"{response.model_name}: {len(response.outputs)} outputs with {len(raw)} raw contents",
            hint="The server must answer in raw contents.",
        )
    outputs = enumerate(response.outputs)
    return {o.name: unpack(f"output {o.name}", o.datatype, tuple(o.shape), raw[i]) for i, o in outputs}


def unpack(what: str, datatype: str, shape: tuple[int, ...], raw: bytes) -> Array:
    """The array whose raw contents these are; `what` it is, for the message. Raises TensorError."""
    try:
        if datatype == "BYTES":
            return np.array(_elements(raw), dtype=object).reshape(shape)
        return np.frombuffer(raw, dtype=_TYPES[datatype]).reshape(shape)
    except KeyError:
        raise TensorError(f"{what}: datatype {datatype} cannot be read into an array") from None
    except (ValueError, struct.error):
        raise TensorError(f"{what}: {len(raw)} bytes do not make {datatype} of shape {list(shape)}") from None


def _pack(name: str, array: Array) -> tuple[str, bytes]:
    if array.dtype.kind in "OSU":
        return "BYTES", b"".join(_LENGTH.pack(len(e)) + e for e in (_as_bytes(name, e) for e in array.flat))
    little = array.dtype.newbyteorder("<")
    datatype = _NAMES.get(little)
    if datatype is None:
        raise TensorError(
            f"input {name}: dtype {array.dtype} has no Open Inference Protocol type", hint=f"Use {', '.join(_TYPES)}."
        )
    return datatype, np.ascontiguousarray(array, dtype=little).tobytes()


def _as_bytes(name: str, element: object) -> bytes:
    if isinstance(element, str):
        return element.encode()
    if isinstance(element, bytes):
        return element
    raise TensorError(f"input {name}: element of {type(element).__name__}; expected text or bytes")


def _elements(raw: bytes) -> list[bytes]:
    elements, at = [], 0
    while at < len(raw):
        (length,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size + length
        if at > len(raw):
            raise ValueError("cut short")
        elements.append(raw[at - length : at])
    return elements
