# Predicted before the first measurement (one thread, in process, without a transport, 64 requests under way):
#   metrics                 1.05: 1.2 us of 24 a request here, without a transport; below 1.03 of what it takes with one
#   spans off               0.00: the same code with one test for each request
#   spans of 1 %            0.01 to 0.02; of all 3 or more: an SDK span takes 20 us, and there are three
"""What watching costs a request of the small model: python -m bench.serving_observed.

Metrics: the calls that count a request, its wait and its share of a batch of 64, against all of the time that the
request takes in this process, from its message to its reply's bytes; a transport comes on top of that time and makes
the share smaller. Spans: a request's time with OpenTelemetry at a sample rate, against that without.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from batchyard.oip import messages
from batchyard.serving.loading import Loader, Wanted
from batchyard.serving.metrics import Metrics, VersionMetrics
from batchyard.serving.naming import WantedModel
from batchyard.serving.oip.infer import Inference
from batchyard.serving.repository import Repository
from batchyard.serving.request_bytes import Receiver
from batchyard.serving.settings import Limits
from batchyard.serving.shadow_watch import ShadowWatch
from batchyard.serving.shared_memory import SharedMemory
from batchyard.serving.shift_watch import ShiftWatch
from batchyard.serving.telemetry import Telemetry
from batchyard.serving.tracing import Tracing
from bench import report
from bench.report import Row
from bench.small_artifact import SmallNetwork, publish

NETWORK = SmallNetwork(row_shape=(784,))
UNDER_WAY, REQUESTS = 64, 4096
BAR = 1.03
PACKAGES = ("numpy", "onnxruntime", "opentelemetry-sdk", "prometheus-client")


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans and forgets them."""

    def Export(self, request: object, context: object) -> object:  # noqa: N802
        """Answers."""
        return trace_service_pb2.ExportTraceServiceResponse()


def main() -> None:
    """Runs all of it."""
    given = report.arguments(__doc__, "serving_observed", rounds=7).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = asyncio.run(measure(Path(folder), given.rounds))
    report.publish("serving_observed", rows, PACKAGES, given.json)


async def measure(folder: Path, rounds: int) -> list[Row]:
    """Seconds of the processor for each request, in alternating rounds."""
    metrics, shift, shadows = Metrics(), ShiftWatch(0.0, 0, folder), ShadowWatch(folder)
    repository = Repository(Loader(folder, ("onnxruntime",)), Limits(), metrics, 1, shift, shadows)
    sha256 = publish(folder / "artifact", NETWORK)
    wanted = Wanted(model="mnist", version=1, artifact_uri=str(folder / "artifact"), manifest_sha256=sha256)
    await repository.apply([WantedModel(name="mnist", latest=1, aliases={}, versions={1: wanted})])
    while repository.resolve("mnist", "1").timings.measuring:  # noqa: ASYNC110  # nothing tells of it
        await asyncio.sleep(0.02)
    collector = grpc.server(ThreadPoolExecutor(1), options=[("grpc.so_reuseport", 0)])
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Collector(), collector)  # type: ignore[no-untyped-call]
    endpoint = f"http://127.0.0.1:{collector.add_insecure_port('127.0.0.1:0')}"
    collector.start()
    tracings = {name: Tracing(None, Telemetry(endpoint, share)) for name, share in (("1 %", 0.01), ("all", 1.0))}
    contenders = {"off": Tracing(None), **tracings}
    took: dict[str, list[float]] = {name: [] for name in (*contenders, "metrics")}
    for number in range(rounds + 1):
        for name, tracing in contenders.items():
            inference = Inference(repository, metrics, SharedMemory(""), tracing)
            seconds = await requests(inference)
            if number:  # the first round warms up
                took[name].append(seconds)
        if number:
            took["metrics"].append(counting())
    for tracing in contenders.values():
        tracing.close()
    collector.stop(None)
    await repository.close()
    shift.close()
    shadows.close()
    with_metrics, off = statistics.median(took["metrics"]), statistics.median(took["off"])
    return [
        Row(name="metrics", ours=off * 1e6, peer="without them", peer_value=(off - with_metrics) * 1e6, unit="us",
            bar=BAR),
        report.compare("spans of 1 %", took, "1 %", "off", unit="us", scale=1e6, bar=BAR),
        report.compare("spans of all requests", took, "all", "off", unit="us", scale=1e6),
    ]  # fmt: skip


async def requests(inference: Inference) -> float:
    """Seconds of this process for each of many requests, so many of them under way."""
    packed, receiver = request().SerializeToString(), Receiver()
    replies: asyncio.Queue[bytes | Exception] = asyncio.Queue()
    began = time.process_time()
    for number in range(REQUESTS + UNDER_WAY):
        if number >= UNDER_WAY and isinstance(reply := await replies.get(), Exception):
            raise reply
        if number < REQUESTS:
            inference.begin(receiver.receive(packed), None, (), replies.put_nowait)
    return (time.process_time() - began) / REQUESTS


def request() -> messages.ModelInferRequest:
    """One row."""
    made = messages.ModelInferRequest(model_name="mnist")
    made.inputs.add(name="pixels", datatype="FP32", shape=(1, 784))
    made.raw_input_contents.append(NETWORK.pixels(1).astype(np.float32).tobytes())
    return made


def counting() -> float:
    """Seconds that the metrics take for each request, in batches of 64, clocks aside."""
    metrics = VersionMetrics("mnist", "1")
    calls: list[tuple[Callable[[], None], int]] = [
        (lambda: metrics.request_waited(0.0003), 1),
        (lambda: metrics.answered(1, 0.0012), 1),
        (lambda: metrics.batch_ran(UNDER_WAY, 0.0004, UNDER_WAY), UNDER_WAY),
    ]
    return sum(report.timer(call)() / shared for call, shared in calls)


if __name__ == "__main__":
    main()
