"""A prototype: pygrpc-native's low-level front instead of its aio server, for bench/serving.py to compare them.

Batches are pulled from the transport on one thread, with no event loop: what gathered while the engine ran is the next
batch. It parses, checks, counts and answers as batchyard.serving does, for one model that takes raw FP32; it knows no
deadlines, cancellations, interceptors, priorities or shared memory, nor all the ways in which a request can be wrong.
"""

from __future__ import annotations

import argparse
import math
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from batchyard.artifact.manifest import ONNX_MODEL
from batchyard.artifact.reader import read_manifest
from batchyard.oip import SERVICE_NAME, messages
from batchyard.serving.metrics import VersionMetrics

METHODS = [(f"/{SERVICE_NAME}/ModelInfer", False), (f"/{SERVICE_NAME}/ModelReady", False)]
INFER = 0
MOST_EVENTS = 64
MODEL = "mnist"


class Pulled:
    """One request of a batch."""

    __slots__ = ("began", "call", "request", "rows")

    def __init__(self, call: int, began: float, request: messages.ModelInferRequest, rows: NDArray[np.float32]) -> None:
        self.call = call
        self.began = began
        self.request = request
        self.rows = rows


class Front:
    """Serves the artifact in `folder` on 127.0.0.1."""

    def __init__(self, folder: Path, port: int) -> None:
        from pygrpc_native import NativeGrpcFront

        self._front = NativeGrpcFront(f"127.0.0.1:{port}", METHODS)
        manifest = read_manifest(str(folder))
        source, result = manifest.inputs[0], manifest.outputs[0]
        self._row_shape, self._features = source.shape[1:], math.prod(source.shape[1:])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(folder / ONNX_MODEL), options)
        self._source, self._result = source.name, result.name
        self._metrics = VersionMetrics(MODEL, "1")
        self._thread = threading.Thread(target=self._serve)

    def start(self) -> int:
        """Returns the port."""
        self._front.start()
        self._thread.start()
        return int(self._front.bound_port)

    def stop(self) -> None:
        """Ends the thread."""
        self._front.close()
        self._thread.join()

    def _serve(self) -> None:
        from pygrpc_native import EVENT_CALL

        while (events := self._front.recv_batch(MOST_EVENTS)) is not None:
            calls = [event for event in events if event[0] == EVENT_CALL]
            taken = [pulled for event in calls if (pulled := self._read(event)) is not None]
            if taken:
                self._answer(taken)

    def _read(self, event: tuple[int, int, int, Any, Any]) -> Pulled | None:
        """None when the call is answered already."""
        _, call, method, payload, _ = event
        began = time.perf_counter()
        if method != INFER:
            self._front.respond(call, messages.ModelReadyResponse(ready=True).SerializeToString())
            return None
        try:
            request = messages.ModelInferRequest.FromString(payload)
            return Pulled(call, began, request, self._rows_of(request))
        except (DecodeError, IndexError, ValueError) as error:
            code = grpc.StatusCode.INVALID_ARGUMENT
            self._metrics.failed(code.name)
            self._front.fail(call, code.value[0], str(error))
            return None

    def _rows_of(self, request: messages.ModelInferRequest) -> NDArray[np.float32]:
        """[rows, features], a view of the message's own bytes. Raises IndexError or ValueError."""
        tensor, raw = request.inputs[0], request.raw_input_contents[0]
        rows = tensor.shape[0]
        if (request.model_name, tensor.name, tensor.datatype) != (MODEL, self._source, "FP32"):
            raise ValueError(f"expected FP32 pixels {self._source!r} for model {MODEL!r}")
        if math.prod(tensor.shape[1:]) != self._features or len(raw) != 4 * rows * self._features:
            raise ValueError(f"got {len(raw)} bytes for {rows} rows of {self._features} values")
        return np.frombuffer(raw, np.float32).reshape(rows, self._features)

    def _answer(self, taken: Sequence[Pulled]) -> None:
        batch = np.concatenate([pulled.rows for pulled in taken])
        began = time.perf_counter()
        scores = self._session.run([self._result], {self._source: batch.reshape(-1, *self._row_shape)})[0]
        ended = time.perf_counter()
        self._metrics.batch_ran(len(batch), ended - began)
        end = 0
        for pulled in taken:
            begin, end = end, end + len(pulled.rows)
            self._front.respond(pulled.call, self._reply(pulled, scores[begin:end]))
            self._metrics.request_waited(began - pulled.began)
            self._metrics.answered(end - begin, time.perf_counter() - pulled.began)

    def _reply(self, pulled: Pulled, scores: Any) -> bytes:
        response = messages.ModelInferResponse(model_name=MODEL, model_version="1", id=pulled.request.id)
        response.outputs.add(name=self._result, datatype="FP32", shape=scores.shape)
        response.raw_output_contents.append(scores.tobytes())
        return bytes(response.SerializeToString())


def main() -> None:
    """Serves until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--ready-file", type=Path, required=True, help="gets the port")
    given = parser.parse_args()
    asked_to_stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked_to_stop.set())
    front = Front(given.artifact, 0)
    partial = given.ready_file.with_suffix(".partial")
    partial.write_text(str(front.start()))
    partial.replace(given.ready_file)
    asked_to_stop.wait()
    front.stop()


if __name__ == "__main__":
    main()
