# Predicted before the first measurement (2 cores, two of them taken by busy processes throughout):
#   choice                  OpenVINO 10 times of 10 for ResNet-18; with a lead of 1.07 one miss would not surprise
#   publish to serving      0.06 s instead of 3.4 s
#   choice, seconds         15 for ResNet-18: it is not on the way to the first answer
"""How engines are chosen: python -m bench.engine_choice.

Parts: choice (ResNet-18 at 32x32, chosen again and again while other processes keep all cores busy: how often it is the
engine that a quiet machine chooses) and publish (the small model, from the moment that the control plane says so to the
first answer; the peer is a load that tries all engines first, measured here, too).
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import numpy as np

from batchyard.artifact.reader import verify
from batchyard.oip import Stub, messages
from batchyard.serving.engines.catalogue import ENGINE_NAMES
from batchyard.serving.engines.measuring import measured
from batchyard.serving.engines.timings import Timings
from batchyard.serving.settings import Limits
from bench import inference_plane, report
from bench.report import Row
from bench.small_artifact import SmallNetwork, publish

BEST = "openvino"
"""Whom a quiet machine chooses for ResNet-18, here and wherever it was tried."""
BAR = 0.9
PACKAGES = ("numpy", "onnxruntime", "openvino", "torch")


def main() -> None:
    """Runs the parts that are named, or all."""
    parser = report.arguments(__doc__, "engine_choice", rounds=10)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=", ".join(PARTS))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for name in given.parts or PARTS for row in PARTS[name](Path(folder), given.rounds)]
    report.publish("engine_choice", rows, PACKAGES, given.json)


def choice_rows(folder: Path, rounds: int) -> list[Row]:
    """ResNet-18 under load."""
    from bench import serving_resnet as resnet

    sha256 = resnet.publish(folder / "resnet", resnet.network(), "resnet18")
    verify(folder / "resnet", sha256)
    winners: Counter[str] = Counter()
    seconds, leads = [], []
    with busy_cores():
        for _ in range(rounds):
            began = time.perf_counter()
            table = asyncio.run(measured(folder / "resnet", ENGINE_NAMES, Limits().max_batch))
            seconds.append(time.perf_counter() - began)
            winners["+".join(f"{share.engine} x{share.threads}" for share in table.chosen)] += 1
            leads.append(rate(table, BEST) / rate(table, "onnxruntime"))
            print(f"{seconds[-1]:.0f} s: {table.chosen}, {BEST} {leads[-1]:.3f} of onnxruntime", flush=True)
    right = sum(count for name, count in winners.items() if name.startswith(BEST) and "+" not in name)
    name = f"ResNet-18, {rounds} choices under load"
    return [
        Row(name=f"{name}: {BEST}", ours=right / rounds, peer="all", peer_value=1.0, unit="choices/s", bar=BAR),
        Row(name=f"{name}: rate", ours=statistics.median(leads), peer="onnxruntime", peer_value=1.0, unit="ratio/s"),
        Row(name=f"{name}: time", ours=statistics.median(seconds), peer="bar", peer_value=40.0, unit="s", bar=1.0),
    ]


def rate(table: Timings, engine: str) -> float:
    """Rows a second in batches of 8 with the better number of threads."""
    passed = [trial for trial in table.trials if trial.engine == engine and trial.seconds]
    return max(8 / trial.seconds_for(8) for trial in passed)


def publish_rows(folder: Path, rounds: int) -> list[Row]:
    """The small model: until the first answer, and until all engines were tried."""
    network = SmallNetwork(row_shape=(784,))
    answered, tried = [], []
    for number in range(max(report.LEAST_ROUNDS, rounds // 2)):
        sha256 = publish(folder / f"small-{number}", network)
        with inference_plane.running(folder / f"plane-{number}") as plane, grpc.insecure_channel(plane.grpc) as channel:
            stub = Stub(channel)
            stub.ServerLive(messages.ServerLiveRequest(), wait_for_ready=True)
            began = time.perf_counter()
            plane.control.want("mnist", 1, folder / f"small-{number}", sha256)
            until_answered(stub, network)
            answered.append(time.perf_counter() - began)
            inference_plane.until_measured(stub, "mnist")
            tried.append(time.perf_counter() - began)
    measurements = {"first": answered, "all engines tried": tried}
    return [report.compare("MLP, publish to serving", measurements, "first", "all engines tried", unit="s", bar=0.2)]


def until_answered(stub: Stub, network: SmallNetwork) -> None:
    """Asks again and again."""
    request = messages.ModelInferRequest(model_name="mnist")
    request.inputs.add(name="pixels", datatype="UINT8", shape=(1, *network.row_shape))
    request.raw_input_contents.append(network.pixels(1).astype(np.uint8).tobytes())
    while True:
        try:
            stub.ModelInfer(request)
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND):
                raise
            time.sleep(0.002)
        else:
            return


@contextmanager
def busy_cores() -> Iterator[None]:
    """One process for each core that never rests."""
    with ExitStack() as stack:
        for _ in range(len(os.sched_getaffinity(0))):
            busy = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(busy.kill)
        yield


PARTS = {"choice": choice_rows, "publish": publish_rows}

if __name__ == "__main__":
    main()
