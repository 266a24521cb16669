"""What is told of a request from its bytes; whatever is unusual is left to the parser."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from batchyard.oip.messages import ModelInferRequest
from batchyard.serving.request_bytes import (
    MOST_FRONTS_OF_A_SIZE,
    MOST_SIZES,
    Received,
    Receiver,
    read_addressee,
)
from bench.small_artifact import SmallNetwork
from tests.serving.harness import request_for


@pytest.mark.parametrize("version", ["", "3", "1234567890"])
@pytest.mark.parametrize("name", ["mnist", "mnist@production", "é"])
def test_model_and_version_are_read_as_the_parser_reads_them(name: str, version: str) -> None:
    request = request_for(SmallNetwork().pixels(1), name, version)
    assert read_addressee(request.SerializeToString()) == (name, version)


def test_a_request_with_an_id_but_no_version_has_none() -> None:
    assert read_addressee(ModelInferRequest(model_name="m", id="\x01an id").SerializeToString()) == ("m", "")


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\x0a",
        b"\x0a\x05mni",
        b"\x0a\x02\xff\xfe",
        ModelInferRequest(model_version="3").SerializeToString(),
        ModelInferRequest(model_name="m" * 128).SerializeToString(),
    ],
    ids=["empty", "tag", "cut", "no-text", "no-name", "long-name"],
)
def test_what_is_unusual_has_to_be_parsed(packed: bytes) -> None:
    assert read_addressee(packed) is None


@given(st.binary(max_size=40))
def test_no_bytes_are_an_error(packed: bytes) -> None:
    addressee = read_addressee(packed)
    assert addressee is None or all(isinstance(part, str) for part in addressee)


def a_request(rows: int = 1, request_id: str = "", name: str = "mnist") -> ModelInferRequest:
    request = request_for(SmallNetwork().pixels(rows), name, "3")
    request.id = request_id
    return request


def whole(received: Received) -> ModelInferRequest:
    """As it was sent; a copy, for several may share what was received."""
    request = ModelInferRequest()
    request.CopyFrom(received.head.request)
    if received.raw is not None:
        request.raw_input_contents.append(bytes(received.raw))
    return request


@pytest.mark.parametrize("rows", [1, 32])
def test_a_tensor_is_not_copied_and_the_rest_is_parsed(rows: int) -> None:
    request = a_request(rows)
    packed = request.SerializeToString()
    received = Receiver().receive(packed)
    assert received.raw is not None
    assert received.raw.obj is packed
    assert bytes(received.raw) == request.raw_input_contents[0]
    assert whole(received) == request


def test_requests_that_differ_in_their_values_alone_are_parsed_once() -> None:
    receiver, one, two = Receiver(), a_request(), a_request()
    two.raw_input_contents[0] = bytes(reversed(two.raw_input_contents[0]))
    first, second = receiver.receive(one.SerializeToString()), receiver.receive(two.SerializeToString())
    assert first.head is second.head
    assert (whole(first), whole(second)) == (one, two)


@pytest.mark.parametrize(
    "others",
    [
        [a_request(name="mnisT"), a_request(name="mnisu")],
        [a_request(rows=1), a_request(rows=2)],
        [a_request(request_id="a"), a_request(request_id="b")],
        [a_request(name=f"model{number:03}") for number in range(3 * MOST_FRONTS_OF_A_SIZE)],
        [a_request(name="m" * length) for length in range(1, MOST_SIZES + 50)],
        [a_request(name="m" * 2000), a_request(name="m" * 2001)],
    ],
    ids=["names", "sizes", "ids", "many-of-a-size", "many-sizes", "long"],
)
def test_requests_that_differ_otherwise_are_not_mixed_up(others: list[ModelInferRequest]) -> None:
    receiver = Receiver()
    for _ in range(2):
        for request in others:
            assert whole(receiver.receive(request.SerializeToString())) == request


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["", "i"]), st.binary(max_size=3)), max_size=20))
def test_whatever_came_before_a_request_is_read_as_the_parser_reads_it(asked: list[tuple[str, str, bytes]]) -> None:
    receiver = Receiver()
    for name, request_id, values in asked:
        request = ModelInferRequest(model_name=name, id=request_id, raw_input_contents=[values])
        request.inputs.add(name="pixels", datatype="UINT8", shape=(1, len(values)))
        packed = request.SerializeToString()
        assert whole(receiver.receive(packed)) == ModelInferRequest.FromString(packed)


def with_typed_contents() -> ModelInferRequest:
    request = ModelInferRequest(model_name="mnist")
    request.inputs.add(name="pixels", datatype="UINT8", shape=(1, 32 * 784)).contents.uint_contents.extend([1] * 25088)
    return request


def with_two_tensors() -> ModelInferRequest:
    request = a_request(32)
    request.raw_input_contents.append(b"more")
    return request


@pytest.mark.parametrize(
    "packed",
    [
        with_typed_contents().SerializeToString(),
        with_two_tensors().SerializeToString(),
        a_request(32).SerializeToString() + ModelInferRequest(id="an id").SerializeToString(),
        a_request(32).SerializeToString() + b"\x98\x06\x01",  # an unknown field, no. 99
    ],
    ids=["typed", "two", "not-last", "unknown-field"],
)
def test_a_request_of_another_kind_is_parsed_whole(packed: bytes) -> None:
    received = Receiver().receive(packed)
    assert received.raw is None
    assert received.head.request == ModelInferRequest.FromString(packed)


@given(st.binary(max_size=40), st.integers(0, 60), st.sampled_from([1, 32]))
def test_a_damaged_request_is_an_error_or_what_the_parser_makes_of_it(front: bytes, cut: int, rows: int) -> None:
    receiver = Receiver()
    receiver.receive(a_request(rows).SerializeToString())
    packed = front + a_request(rows).SerializeToString()[cut:]
    try:
        expected = ModelInferRequest.FromString(packed)
    except DecodeError:
        with pytest.raises(DecodeError):
            receiver.receive(packed)
        return
    assert whole(receiver.receive(packed)) == expected
