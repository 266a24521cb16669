"""A server of the Open Inference Protocol as benches see it: an address, a model, and answers that can be checked."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from batchyard.oip import Stub, messages
from bench import h2load

READY_SECONDS = 90.0
TOLERANCE = 1e-3
"""Between two servers' fp32 logits of one graph: their batches differ, and so does the order of additions."""
DATATYPES = {"float32": "FP32", "uint8": "UINT8"}

Rows = NDArray[np.float32] | NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What is served, and what it is asked."""

    name: str
    """The model's."""
    folder: Path
    sha256: str
    """Of the manifest."""
    rows: Rows
    """[n, features]"""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One model of one server."""

    name: str
    """The server, for tables."""
    address: str = ""
    """HOST:PORT, once it runs."""
    model: str
    tensor: str
    """The input's name."""
    pixels: type[np.float32] | type[np.uint8] = np.float32
    """What the input takes."""
    tolerance: float = TOLERANCE
    """Between its logits and ONNX Runtime's."""

    def request(self, rows: Rows) -> bytes:
        """A ModelInferRequest for rows [n, features], raw."""
        pixels = rows.astype(self.pixels)
        request = messages.ModelInferRequest(model_name=self.model)
        request.inputs.add(name=self.tensor, datatype=DATATYPES[pixels.dtype.name], shape=pixels.shape)
        request.raw_input_contents.append(pixels.tobytes())
        return bytes(request.SerializeToString())

    def ask(self, channel: grpc.Channel, rows: Rows) -> tuple[NDArray[np.float32], int]:
        """The logits [n, classes] of rows [n, features], and the size of the reply's message. Raises grpc.RpcError."""
        call: Any = channel.unary_unary(h2load.PATH, None, None)  # bytes in and out
        packed: bytes = call(self.request(rows), timeout=30)
        reply = messages.ModelInferResponse.FromString(packed)
        if len(reply.raw_output_contents) != 1:
            raise RuntimeError(f"{self.name} gave {len(reply.raw_output_contents)} raw outputs; expected one")
        return np.frombuffer(reply.raw_output_contents[0], np.float32).reshape(len(rows), -1), len(packed)

    def send(self, channel: grpc.Channel, rows: Rows) -> Any:
        """The same without waiting: gRPC's future of the reply's bytes."""
        call: Any = channel.unary_unary(h2load.PATH, None, None)
        return call.future(self.request(rows), timeout=30)

    def check(self, rows: Rows, expected: NDArray[np.floating[Any]]) -> int:
        """Asks for all rows in one request, then for each alone. Returns the size of the reply to all of them.

        Raises AssertionError when an answer is not `expected` [n, classes], grpc.RpcError when there is none.
        """
        with grpc.insecure_channel(self.address) as channel:
            logits, size = self.ask(channel, rows)
            self._compare(logits, expected)
            for index in range(len(rows)):
                self._compare(self.ask(channel, rows[index : index + 1])[0], expected[index : index + 1])
        return size

    def _compare(self, logits: NDArray[np.float32], expected: NDArray[np.floating[Any]]) -> None:
        np.testing.assert_allclose(logits, expected, atol=self.tolerance, rtol=self.tolerance, err_msg=self.name)

    def wait_until_ready(self, process: subprocess.Popen[Any], log: Path) -> None:
        """Returns when the model answers. Raises RuntimeError with the end of the log when the process ends first."""
        with grpc.insecure_channel(self.address) as channel:
            stub = Stub(channel)
            wait(lambda: _is_ready(stub, self.model), process, log, f"{self.name} to serve {self.model!r}")


def wait(condition: Callable[[], bool], process: subprocess.Popen[Any], log: Path, what: str) -> None:
    """Returns when the condition holds. Raises RuntimeError with the end of the log when that takes too long."""
    deadline = time.monotonic() + READY_SECONDS
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            why = f"waited {READY_SECONDS:g} s" if process.poll() is None else f"it ended with {process.returncode}"
            raise RuntimeError(f"waiting for {what}: {why}; its log ends:\n{log.read_text()[-2000:]}")
        time.sleep(0.05)


def _is_ready(stub: Any, model: str) -> bool:
    try:
        return bool(stub.ModelReady(messages.ModelReadyRequest(name=model), timeout=5).ready)
    except grpc.RpcError:
        return False  # not listening yet, or no such model yet
