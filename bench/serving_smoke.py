"""Requests a second of the served MLP under h2load: `python -m bench.serving_smoke [--transport native] [--json FILE]`.

Starts one inference plane with everything on (verification, batching, metrics, statuses), publishes the paper's MLP
with random weights to it, checks an answer against the fp64 oracle, and loads it: 4 connections x 16 streams, one FP32
row of 784 values in each request. The plane's own metrics tell whether each was answered.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from batchyard.oip import SERVICE_NAME, Stub, messages
from batchyard.v1 import models_pb2, models_pb2_grpc
from bench import report
from bench.small_artifact import SmallNetwork, publish

BAR = 15_000.0
NETWORK = SmallNetwork()
CONNECTIONS, STREAMS = 4, 16


class OneModel(models_pb2_grpc.ModelServiceServicer):
    """A control plane that wants one version served."""

    def __init__(self, served: models_pb2.ServedModel) -> None:
        self._served = served

    async def WatchServedModels(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """Says it once."""
        yield models_pb2.WatchServedModelsResponse(models=[self._served])
        await asyncio.Event().wait()


def infer_request(rows: int) -> messages.ModelInferRequest:
    """FP32 pixels, raw."""
    pixels = NETWORK.pixels(rows).astype(np.float32)
    request = messages.ModelInferRequest(model_name="mnist")
    request.inputs.add(name="pixels", datatype="FP32", shape=pixels.shape)
    request.raw_input_contents.append(pixels.tobytes())
    return request


async def check_answer(address: str, request: messages.ModelInferRequest) -> None:
    """Waits until the model is served and compares its logits with the oracle's."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = Stub(channel)
        async with asyncio.timeout(60):
            while not (await stub.ModelReady(messages.ModelReadyRequest(name="mnist"))).ready:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        response = await stub.ModelInfer(request)
    rows = request.inputs[0].shape[0]
    logits = np.frombuffer(response.raw_output_contents[0], np.float32).reshape(rows, -1)
    np.testing.assert_allclose(logits, NETWORK.oracle(NETWORK.pixels(rows)), atol=1e-3)


def h2load(address: str, body: Path, requests: int) -> float:
    """Requests a second."""
    command = ["h2load", "-n", str(requests), "-c", str(CONNECTIONS), "-m", str(STREAMS), "-t", "1", "-d", str(body)]
    command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    done = subprocess.run(
        [*command, f"http://{address}/{SERVICE_NAME}/ModelInfer"], capture_output=True, text=True, check=True
    )
    rate = re.search(r"finished in .*?, ([\d.]+) req/s", done.stdout)
    if rate is None or f"status codes: {requests} 2xx" not in done.stdout:
        raise RuntimeError(f"not every request was answered:\n{done.stdout}")
    return float(rate[1])


def failures(http: str) -> list[str]:
    """Lines of /metrics that count failures: gRPC's own statuses travel in trailers, which h2load does not read."""
    with urllib.request.urlopen(f"http://{http}/metrics", timeout=10) as response:
        text = response.read().decode()
    return [line for line in text.splitlines() if line.startswith("batchyard_inference_failures_total{")]


async def measure(transport: str, rounds: int, requests: int, rows: int) -> list[float]:
    """Requests a second of each round."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sha256 = publish(folder / "artifact", NETWORK)
        version = models_pb2.ModelVersion(
            name="models/mnist/versions/1", artifact_uri=str(folder / "artifact"), manifest_sha256=sha256
        )
        model = models_pb2.Model(name="models/mnist", latest_version=1, aliases={"production": 1})
        control = grpc.aio.server()
        servicer = OneModel(models_pb2.ServedModel(model=model, versions=[version]))  # type: ignore[abstract]  # one call
        models_pb2_grpc.add_ModelServiceServicer_to_server(servicer, control)
        port = control.add_insecure_port("127.0.0.1:0")
        await control.start()
        request = infer_request(rows)
        message = request.SerializeToString()
        body = folder / "request"
        body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        plane = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "batchyard.serving", "--control", f"127.0.0.1:{port}", "--cache", folder / "cache",
            "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--transport", transport,
            "--ready-file", folder / "ready.json",
        )  # fmt: skip
        try:
            async with asyncio.timeout(60):
                while not (folder / "ready.json").exists():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            addresses = json.loads((folder / "ready.json").read_text())
            await check_answer(addresses["grpc"], request)
            return await asyncio.to_thread(_rounds, addresses, body, rounds, requests)
        finally:
            plane.terminate()
            await plane.wait()
            await control.stop(None)


def _rounds(addresses: dict[str, str], body: Path, rounds: int, requests: int) -> list[float]:
    h2load(addresses["grpc"], body, max(requests // 10, 200))
    rates = [h2load(addresses["grpc"], body, requests) for _ in range(rounds)]
    if failed := failures(addresses["http"]):
        raise RuntimeError(f"requests failed: {failed}")
    return rates


def main() -> None:
    """Prints a table and writes the JSON."""
    parser = report.arguments(__doc__, "serving_smoke", rounds=5)
    parser.add_argument("--transport", choices=("native", "grpcio"), default="native")
    parser.add_argument("--requests", type=int, default=60_000)
    parser.add_argument("--rows", type=int, default=1)
    given = parser.parse_args()
    rates = asyncio.run(measure(given.transport, given.rounds, given.requests, given.rows))
    name = f"MLP 784-100-100-100-10, {given.rows} row(s), {CONNECTIONS}x{STREAMS}, {given.transport}"
    measured = {"ours": rates, "bar": [BAR] * len(rates)}
    row = report.compare(name, measured, "ours", "bar", unit="requests/s", bar=1.0)
    packages = ("grpcio", "numpy", "onnxruntime", "protobuf", "pygrpc-native")
    report.publish("serving_smoke", [row], packages, given.json)


if __name__ == "__main__":
    main()
