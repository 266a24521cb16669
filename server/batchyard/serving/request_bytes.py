"""What can be told of a ModelInferRequest from its bytes, without parsing them or copying the tensor that is in them.

A message is a row of fields, each a tag and its content (protobuf's encoding guide); those of this one all have a
length. Every serialiser writes them in the order of their numbers: model_name (1) and model_version (2) first and
raw_input_contents (7) last. A message that is written otherwise is legal, and left to the parser.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from batchyard.oip.messages import ModelInferRequest

NAME_TAG, VERSION_TAG, RAW_TAG = 0x0A, 0x12, 0x3A
WITH_LENGTH = 2
"""The low three bits of a tag whose field has a length."""
ONE_BYTE = 0x7F
"""The largest number that takes one byte."""
LONGEST_FRONT = 1 << 10
"""Bytes before the values of a tensor, for a request that is remembered."""
MOST_SIZES, MOST_FRONTS_OF_A_SIZE = 256, 4


class Head:
    """A request but for the values of a raw tensor, where those were not parsed. Many requests may share one."""

    __slots__ = ("form", "id", "model_name", "model_version", "outputs", "parameters", "request")

    def __init__(self, request: ModelInferRequest) -> None:
        """`request` must not be changed any more."""
        self.request = request
        self.model_name: str = request.model_name
        self.model_version: str = request.model_version
        self.id: str = request.id
        self.outputs = request.outputs
        self.parameters = request.parameters
        self.form: Any = None
        """For whoever has checked name, datatype and shape of the tensor to keep what came out."""


class Received(NamedTuple):
    """A request as it came."""

    head: Head
    raw: memoryview | None = None
    """The one entry of raw_input_contents, where it was not parsed; a view of the message's bytes."""


NONE: dict[bytes, Head] = {}


class Receiver:
    """Parses requests; one that differs from an earlier one in nothing but its tensor's values is known already.

    A parsed message would hold a copy of the tensor, and each 10,000 blocks of memory that protobuf (6.31) frees end
    in a malloc_trim, after which all the memory that requests need is had from the system anew: with 2,048 of them
    under way that was an eighth of the time.
    """

    def __init__(self) -> None:
        self._known: dict[int, dict[bytes, Head]] = {}
        """Size of a whole request -> all its bytes before the values (the names, the shape, how many bytes follow) ->
        what they say."""

    def receive(self, packed: bytes) -> Received:
        """Parses a request. Raises DecodeError."""
        for front, head in self._known.get(len(packed), NONE).items():
            if packed.startswith(front):
                return Received(head, memoryview(packed)[len(front) :])
        tag, begin = _raw_field_of(packed) or (0, 0)
        if not begin:
            return Received(Head(ModelInferRequest.FromString(packed)))
        head = Head(ModelInferRequest.FromString(packed[:tag]))
        if begin <= LONGEST_FRONT and not head.id:  # most ids come once
            self._remember(len(packed), packed[:begin], head)
        return Received(head, memoryview(packed)[begin:])

    def _remember(self, size: int, front: bytes, head: Head) -> None:
        if size not in self._known and len(self._known) >= MOST_SIZES:
            self._known.clear()
        fronts = self._known.setdefault(size, {})
        if len(fronts) >= MOST_FRONTS_OF_A_SIZE:
            fronts.clear()
        fronts[front] = head


def read_addressee(packed: bytes) -> tuple[str, str] | None:
    """(model_name, model_version), "" for a version that is not there; None: the request must be parsed to know."""
    name, at = _text_at(packed, 0, NAME_TAG)
    if not name:
        return None
    version, _ = _text_at(packed, at, VERSION_TAG)
    try:
        return name.decode(), version.decode()
    except UnicodeDecodeError:
        return None


def _text_at(packed: bytes, at: int, tag: int) -> tuple[bytes, int]:
    """The field that begins there, and where it ends; b"" where another field begins, or one that is cut off."""
    if at + 1 >= len(packed) or packed[at] != tag or packed[at + 1] > ONE_BYTE:
        return b"", at
    begin, end = at + 2, at + 2 + packed[at + 1]
    return (packed[begin:end], end) if end <= len(packed) else (b"", at)


def _raw_field_of(packed: bytes) -> tuple[int, int] | None:
    """Where the only raw_input_contents begins and where its content does, which is the rest of the message.

    None: the message ends otherwise, or with the second of several.
    """
    at, size = 0, len(packed)
    while at < size:
        tag, begin, length, shift = packed[at], at + 1, 0, 0
        if tag > ONE_BYTE or tag & 7 != WITH_LENGTH:
            return None
        while begin < size:
            byte = packed[begin]
            length |= (byte & ONE_BYTE) << shift
            begin, shift = begin + 1, shift + 7
            if byte <= ONE_BYTE:
                break
        if tag == RAW_TAG:
            return (at, begin) if begin + length == size else None
        at = begin + length
    return None
