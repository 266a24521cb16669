"""What two versions have in common whose engines take the same time: the graph, whatever its weights are.

Training the same network again gives new weights in the same graph, and the table of times of the version before holds
for it, too. The file is walked, not parsed: a parser copies the weights, 40 ms for ResNet-18, in which no request is
answered.

A field of a message is a tag, which says its number and how it is written, and its content (protobuf's encoding
guide); the numbers are those of onnx.proto.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from batchyard.artifact.manifest import ONNX_MODEL, Manifest

GRAPH, INITIALIZER = 7, 5
"""ModelProto.graph, GraphProto.initializer."""
DATA_TYPE, WEIGHTS = 2, (4, 9, 10)
"""Of TensorProto; the weights are float_data, raw_data and double_data."""
FLOATING_POINT = (1, 11)
"""FLOAT and DOUBLE. What integers say (shapes, axes) belongs to the graph."""
VARINT, EIGHT_BYTES, WITH_LENGTH, FOUR_BYTES = 0, 1, 2, 5
"""How a field is written."""


class Field(NamedTuple):
    """One field of a message."""

    number: int
    whole: memoryview
    """Tag and content, as they are written."""
    content: memoryview
    """Without the tag, and without the length if it has one."""


def graph_digest(manifest: Manifest, folder: Path) -> str:
    """Of the graph in a verified folder: a sha256 without the floating-point weights.

    Of a file that is not made of fields it is that of all its bytes: the version shares its table with nobody.
    """
    with (folder / ONNX_MODEL).open("rb") as file:
        try:
            # Closed when the last view of it is gone: those of a file that is at fault are in its exception.
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            return _digest(content)
        except (ValueError, IndexError):
            return manifest.files[ONNX_MODEL]


def _digest(model: memoryview) -> str:
    digest = hashlib.sha256()
    for part in _parts(model):
        digest.update(part)
    return digest.hexdigest()


def _parts(model: memoryview) -> Iterator[memoryview]:
    """All of the model but the weights."""
    for field in _fields(model):
        if field.number != GRAPH:
            yield field.whole
            continue
        for inner in _fields(field.content):
            if inner.number == INITIALIZER:
                yield from _without_weights(inner.content)
            else:
                yield inner.whole


def _without_weights(tensor: memoryview) -> Iterator[memoryview]:
    """Name, type and shape of a tensor of floating-point numbers; all of another."""
    fields = list(_fields(tensor))
    kinds = [_varint(field.content, 0)[0] for field in fields if field.number == DATA_TYPE]
    left_out = WEIGHTS if kinds and kinds[-1] in FLOATING_POINT else ()
    for field in fields:
        if field.number not in left_out:
            yield field.whole


def _fields(message: memoryview) -> Iterator[Field]:
    """In their order. Raises ValueError or IndexError where the bytes are no fields."""
    at = 0
    while at < len(message):
        tag, begin = _varint(message, at)
        end = begin
        kind = tag & 7
        if kind == WITH_LENGTH:
            length, begin = _varint(message, begin)
            end = begin + length
        elif kind == VARINT:
            _, end = _varint(message, begin)
        elif kind in (EIGHT_BYTES, FOUR_BYTES):
            end = begin + (8 if kind == EIGHT_BYTES else 4)
        else:
            raise ValueError(f"no field is written like {kind}")
        if end > len(message):
            raise ValueError("a field goes beyond the end")
        yield Field(tag >> 3, message[at:end], message[begin:end])
        at = end


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """An integer of seven bits a byte, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
