"""What is told of a request from its bytes; whatever is unusual is left to the parser."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from batchyard.oip.messages import ModelInferRequest
from batchyard.serving.request_bytes import WORTH_SPLITTING, read_addressee, receive
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


def large_request() -> ModelInferRequest:
    return request_for(SmallNetwork().pixels(32), "mnist", "3")


def test_a_large_tensor_is_not_copied_and_the_rest_is_parsed() -> None:
    request = large_request()
    packed = request.SerializeToString()
    received = receive(packed)
    assert received.raw is not None
    assert received.raw.obj is packed
    assert bytes(received.raw) == request.raw_input_contents[0]
    received.request.raw_input_contents.append(bytes(received.raw))
    assert received.request == request


def test_a_small_request_is_parsed_whole() -> None:
    request = request_for(SmallNetwork().pixels(1))
    assert len(request.SerializeToString()) < WORTH_SPLITTING
    assert receive(request.SerializeToString()) == (request, None)


def with_typed_contents() -> ModelInferRequest:
    request = ModelInferRequest(model_name="mnist")
    request.inputs.add(name="pixels", datatype="UINT8", shape=(1, 32 * 784)).contents.uint_contents.extend([1] * 25088)
    return request


def with_two_tensors() -> ModelInferRequest:
    request = large_request()
    request.raw_input_contents.append(b"more")
    return request


@pytest.mark.parametrize(
    "packed",
    [
        with_typed_contents().SerializeToString(),
        with_two_tensors().SerializeToString(),
        large_request().SerializeToString() + ModelInferRequest(id="an id").SerializeToString(),
        large_request().SerializeToString() + b"\x98\x06\x01",  # an unknown field, no. 99
    ],
    ids=["typed", "two", "not-last", "unknown-field"],
)
def test_a_large_request_of_another_kind_is_parsed_whole(packed: bytes) -> None:
    assert len(packed) >= WORTH_SPLITTING
    assert receive(packed) == (ModelInferRequest.FromString(packed), None)


@given(st.binary(max_size=40), st.integers(0, 60))
def test_a_damaged_request_is_an_error_or_what_the_parser_makes_of_it(front: bytes, cut: int) -> None:
    packed = front + large_request().SerializeToString()[cut:]
    try:
        expected = ModelInferRequest.FromString(packed)
    except DecodeError:
        with pytest.raises(DecodeError):
            receive(packed)
        return
    received = receive(packed)
    if received.raw is not None:
        received.request.raw_input_contents.append(bytes(received.raw))
    assert received.request == expected
