"""Channels: a service that stops is noticed, however near to its end a call begins."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest

from batchyard.client.channel import open_channel
from batchyard.v1.training_pb2 import WatchTrainingJobRequest
from batchyard.v1.training_pb2_grpc import TrainingServiceStub

SETTINGS, GOAWAY = 4, 7
EVERY_STREAM, INTERNAL_ERROR = 0x7FFFFFFF, 2
CALLS = 150
"""With gRPC's own retries one in fifty of them was not told."""


def frame(kind: int, body: bytes = b"") -> bytes:
    """One of the connection's own frames in HTTP/2 (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(body))[1:] + bytes([kind, 0]) + bytes(4) + body


@contextmanager
def stopping_service() -> Iterator[str]:
    """The address of one that shakes hands, says that it stops, and is gone."""
    listener = socket.create_server(("127.0.0.1", 0))

    def stop() -> None:
        connection, _ = listener.accept()
        listener.close()
        with connection:
            connection.sendall(frame(SETTINGS) + frame(GOAWAY, struct.pack(">II", EVERY_STREAM, INTERNAL_ERROR)))

    thread = threading.Thread(target=stop)
    thread.start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    thread.join()


def test_a_stream_that_begins_just_when_the_service_stops_is_told_so() -> None:
    for _ in range(CALLS):
        with stopping_service() as address, open_channel(address, None) as channel:
            with pytest.raises(grpc.RpcError) as raised:
                list(TrainingServiceStub(channel).WatchTrainingJob(WatchTrainingJobRequest(), timeout=2.0))
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
