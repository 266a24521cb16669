"""Mutations of valid ModelInfer requests, of their bytes and of their fields; the same seed gives the same ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from batchyard.oip.messages import ModelInferRequest
from bench.small_artifact import SmallNetwork
from tests.serving.harness import request_for

NETWORK = SmallNetwork(seed=1)
NUMBERS = (0, 1, -1, 2, 784, 2**31 - 1, 2**31, 2**32, 2**32 + 1, 2**62, 2**63 - 1, -(2**63))
TEXTS = (
    "",
    "pixels",
    "logits",
    "mnist",
    "mnist@production",
    "\0",
    "ä" * 300,
    "FP32",
    "UINT8",
    "BF16",
    "BYTES",
    "1",
    "-1",
)
PARAMETERS = ("timeout", "priority", "classification", "shared_memory_region", "shared_memory_byte_size", "sequence_id")


class Mutator:
    """A source of requests, each with the name of what was done to it."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        pixels = NETWORK.pixels(2)
        typed = request_for(pixels[:1])
        del typed.raw_input_contents[:]
        typed.inputs[0].contents.uint_contents.extend(pixels[0].reshape(-1).tolist())
        self._valid = [request_for(pixels), request_for(pixels.astype(np.float32)), typed]
        self._packed = [request.SerializeToString() for request in self._valid]
        self._bytes_kinds: list[Callable[[bytearray], bytes]] = [
            self.truncated, self.flipped, self.flipped_head, self.doubled, self.spliced, self.random_bytes, self.longer
        ]  # fmt: skip
        self._field_kinds: list[Callable[[ModelInferRequest], None]] = [
            self.shape, self.text, self.parameter, self.contents, self.raw, self.output, self.twice
        ]  # fmt: skip

    def next(self) -> tuple[str, bytes]:
        """What was done, and the bytes to send."""
        if self._random.random() < 0.5:
            change = self._random.choice(self._bytes_kinds)
            return change.__name__, change(bytearray(self._random.choice(self._packed)))
        request, names = ModelInferRequest(), []
        request.CopyFrom(self._random.choice(self._valid))
        for change_field in self._random.choices(self._field_kinds, k=self._random.randint(1, 3)):
            change_field(request)
            names.append(change_field.__name__)
        return "+".join(names), request.SerializeToString()

    def truncated(self, packed: bytearray) -> bytes:
        return bytes(packed[: self._random.randrange(len(packed))])

    def flipped(self, packed: bytearray) -> bytes:
        for _ in range(self._random.randint(1, 8)):
            packed[self._random.randrange(len(packed))] ^= 1 << self._random.randrange(8)
        return bytes(packed)

    def flipped_head(self, packed: bytearray) -> bytes:
        """Where names, types, shapes and lengths are."""
        packed[self._random.randrange(60)] = self._random.randrange(256)
        return bytes(packed)

    def doubled(self, packed: bytearray) -> bytes:
        at = self._random.randrange(len(packed))
        return bytes(packed + packed[at:])

    def spliced(self, packed: bytearray) -> bytes:
        other = self._random.choice(self._packed)
        return bytes(packed[: self._random.randrange(len(packed))]) + other[self._random.randrange(len(other)) :]

    def random_bytes(self, packed: bytearray) -> bytes:
        return self._random.randbytes(self._random.randrange(2000))

    def longer(self, packed: bytearray) -> bytes:
        """A field that claims more bytes than there are, or an endless varint."""
        return bytes(packed) + self._random.choice((b"\x3a\xff\xff\xff\xff\x0f", b"\x2a" + b"\xff" * 20, b"\x0b" * 500))

    def shape(self, request: ModelInferRequest) -> None:
        for tensor in request.inputs:
            size = self._random.choice((0, 1, 2, 4, 9, 2000))
            tensor.shape[:] = self._random.choices(NUMBERS, k=size)

    def text(self, request: ModelInferRequest) -> None:
        word = self._random.choice(TEXTS)
        owner = self._random.choice([request, *request.inputs])
        fields = ("model_name", "model_version", "id") if owner is request else ("name", "datatype")
        setattr(owner, self._random.choice(fields), word)

    def parameter(self, request: ModelInferRequest) -> None:
        owner: Any = self._random.choice([request, *request.inputs, *request.outputs])
        given = owner.parameters[self._random.choice(PARAMETERS)]
        kind = self._random.choice(("int64_param", "uint64_param", "string_param", "bool_param", "double_param", ""))
        if kind == "int64_param":
            given.int64_param = self._random.choice(NUMBERS)
        elif kind == "uint64_param":
            given.uint64_param = abs(self._random.choice(NUMBERS))
        elif kind == "string_param":
            given.string_param = self._random.choice(TEXTS)
        elif kind == "bool_param":
            given.bool_param = True
        elif kind == "double_param":
            given.double_param = float("nan")

    def contents(self, request: ModelInferRequest) -> None:
        for tensor in request.inputs:
            tensor.contents.fp32_contents.extend([float("nan"), float("inf")] * self._random.randrange(3))
            tensor.contents.uint_contents.extend([2**32 - 1] * self._random.randrange(3))
            tensor.contents.bytes_contents.append(b"\xff")

    def raw(self, request: ModelInferRequest) -> None:
        size = self._random.choice((0, 1, 3, 784, 1568, 6272, 100_000))
        request.raw_input_contents.append(self._random.randbytes(size))
        if self._random.random() < 0.7:
            request.raw_input_contents[:] = [request.raw_input_contents[-1]]

    def output(self, request: ModelInferRequest) -> None:
        request.outputs.add(name=self._random.choice(TEXTS))

    def twice(self, request: ModelInferRequest) -> None:
        if request.inputs:
            request.inputs.append(request.inputs[0])
