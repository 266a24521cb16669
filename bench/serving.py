# Predicted before the first measurement (2 cores, shared with h2load; ratios ours to the peer's):
#   MLP, 1x1                rate 3.5, p50 0.3 of Triton's: one Python process against two and a queue delay of 0.5 ms
#   MLP, 4x16               1.9 of Triton's: misses its 2.0 by little; 18 of MLServer's; p99 0.6 of Triton's
#   MLP, 8x32               1.5 of Triton's: Triton gains from company, we are at the limit of one Python thread
#   MLP, 32 rows, 4x4       1.2 of Triton's: bytes, not calls
#   low-level front         our aio server has 0.75 of its rate
#   ResNet-18               0.93 of the engine in process: h2load and the transport take 5 % of two cores; 2.0 of eager
#   version swap            p99 1.2 at half load, 1.6 at full load: loading takes a core from a full machine
#   overload                ResNet-18 goodput 0.93 of the peak; MLP 0.9, limited by the transport, nothing refused
# Predicted before the first measurement of ModelInfer on pygrpc-native's low-level front, called back (front.py):
#   MLP, 1x1                p50 0.25 ms, not 0.32: no task for each call, but still one change of threads
#   MLP, 4x16               36,000 requests/s, 0.82 of the prototype that had no event loop, 3.0 of Triton's
#   MLP, 32 rows, 4x4       p99 1.1 of Triton's, not 1.25: no thread waits for the interpreter to be switched
#   MLP at 4x its peak      0.85 of the peak: fewer objects for each of the 2,048 requests that wait
"""The inference plane against Triton and MLServer under h2load: `make bench-serving`, or `python -m bench.serving`.

Parts: mlp (784-100-100-100-10, FP32 rows: our plane, Triton, MLServer), resnet (ResNet-18 at 32x32: those, the chosen
engine in this process, and eager torch, unfolded), swap, overload and streams (our plane alone). All servers have the
same ONNX model; known requests are checked against ONNX Runtime in this process before and after each run, and each
run's replies are counted by their bytes. The peers' environments are made below .cache. TRITON_START names the script
that starts Triton (default ../shared/peers/triton/start.sh).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from batchyard.artifact.manifest import ONNX_MODEL
from bench import contest, inference_plane, report, serving_overload, serving_peers, serving_streams, serving_swap
from bench.contest import Cell, Contest
from bench.h2load import Shape
from bench.oip_target import Target
from bench.serving_overload import Artifact
from bench.serving_peers import MissingPeerError
from bench.small_artifact import SmallNetwork, publish

OURS = "ours"
BUSY = Cell(shape=Shape(connections=4, streams=16))
MLP_CELLS = (
    Cell(shape=Shape(connections=1, streams=1)),
    Cell(shape=Shape(connections=4, streams=1)),
    BUSY,
    Cell(shape=Shape(connections=8, streams=32)),
    Cell(shape=Shape(connections=4, streams=4), rows=32),
)
MLP_BARS = {
    "1x1": {"Triton p50": 1.0},
    "4x16": {"Triton rate": 2.0, "Triton p99": 1.0, "MLServer rate": 12.0},
}
ENGINE_BAR, EAGER_BAR = 0.95, 2.0
BATCH = 32
"""Rows of a batch in process: what 4x16 gives, half of the requests in the engine and half on their way."""
MLP = SmallNetwork(row_shape=(784,))
PACKAGES = ("grpcio", "numpy", "onnxruntime", "protobuf", "pygrpc-native", "torch")


@dataclass
class Bench:
    """One run of it."""

    rounds: int
    folder: Path
    left_out: dict[str, str] = field(default_factory=dict)
    """What could not be measured -> why."""

    def mlp(self) -> list[report.Row]:
        """The small model, every cell."""
        folder = self.folder / "mlp"
        artifact, model = folder / "artifact", folder / "artifact" / ONNX_MODEL
        sha256 = publish(artifact, MLP)
        ours = Target(name=OURS, model="mnist", tensor="pixels")
        with ExitStack() as running:
            targets = [running.enter_context(inference_plane.serving(folder / "plane", ours, artifact, sha256))]
            targets += self._start_peers(running, folder, model, MLP.row_shape[0])
            measuring = Contest(model, MLP.pixels(32))
            rows = []
            for cell in MLP_CELLS:
                outcomes = measuring.alternate(cell, targets, self.rounds)
                rows += contest.rows(f"MLP, {cell}", outcomes, OURS, MLP_BARS.get(str(cell), {}))
        return rows

    def resnet(self) -> list[report.Row]:
        """ResNet-18 served, in process, and unfolded."""
        from bench import serving_resnet as resnet

        folder = self.folder / "resnet"
        artifact, model = folder / "artifact", folder / "artifact" / ONNX_MODEL
        network = resnet.network()
        sha256 = resnet.publish(artifact, network, "resnet18")
        ours = Target(name=OURS, model="resnet18", tensor="pixels", pixels=np.uint8)
        with ExitStack() as running:
            targets = [running.enter_context(inference_plane.serving(folder / "plane", ours, artifact, sha256))]
            targets += self._start_peers(running, folder, model, resnet.FEATURES)
            measuring = Contest(model, resnet.pixels(32))
            outcomes = measuring.alternate(BUSY, targets, self.rounds)
            cache = folder / "plane" / "cache"  # so that the engines are not measured anew, perhaps with another result
            chosen = resnet.chosen_engine(artifact, sha256, ours.model, cache, BATCH)
            engine, run_engine = running.enter_context(chosen)
            calls = {f"{engine} in process": run_engine, "eager torch, unfolded": resnet.eager(network, BATCH)}
            contenders = {OURS: measuring.rate(BUSY, targets[0]), **resnet.rates(calls, BATCH)}
            measured = report.alternate(contenders, self.rounds)
        name = f"ResNet-18 at 32x32, {BUSY}"
        rows = contest.rows(name, outcomes, OURS, {})
        for peer, bar in zip(calls, (ENGINE_BAR, EAGER_BAR), strict=True):
            rows.append(report.compare(name, measured, OURS, peer, unit="samples/s", bar=bar))
        return rows

    def swap(self) -> list[report.Row]:
        """A new version under load."""
        return serving_swap.rows(self.folder / "swap", self.rounds)

    def overload(self) -> list[report.Row]:
        """Four times what our plane can answer."""
        from bench import serving_resnet as resnet

        folder = self.folder / "overload"
        small, deep = folder / "mlp", folder / "resnet"
        mlp = Artifact(name="mnist", folder=small, sha256=publish(small, MLP), rows=MLP.pixels(1))
        sha256 = resnet.publish(deep, resnet.network(), "resnet18")
        resnet18 = Artifact(name="resnet18", folder=deep, sha256=sha256, rows=resnet.pixels(1))
        return [
            *serving_overload.rows("MLP", mlp, folder / "plane-mlp", self.rounds),
            *serving_overload.rows(
                "ResNet-18", resnet18, folder / "plane-resnet", self.rounds, *serving_overload.SHORT_QUEUE
            ),
        ]

    def streams(self) -> list[report.Row]:
        """ModelStreamInfer on both transports."""
        folder = self.folder / "streams"
        artifact = folder / "artifact"
        mlp = Artifact(name="mnist", folder=artifact, sha256=publish(artifact, MLP), rows=MLP.pixels(1))
        return serving_streams.rows(mlp, folder, self.rounds)

    def _start_peers(self, running: ExitStack, folder: Path, model: Path, features: int) -> list[Target]:
        triton = serving_peers.triton(model, folder / "triton", features, MLP.classes)
        mlserver = serving_peers.mlserver(model, folder / "mlserver")
        return [*self.start(running, "Triton", triton), *self.start(running, "MLServer", mlserver)]

    def start(self, running: ExitStack, name: str, peer: AbstractContextManager[Target]) -> list[Target]:
        """The started peer, or nothing and a note of why."""
        try:
            return [running.enter_context(peer)]
        except MissingPeerError as error:
            self.left_out[name] = str(error)
            return []


PARTS: dict[str, Callable[[Bench], list[report.Row]]] = {
    "mlp": Bench.mlp,
    "resnet": Bench.resnet,
    "swap": Bench.swap,
    "overload": Bench.overload,
    "streams": Bench.streams,
}


def main() -> None:
    """Measures the parts asked for, prints the table and writes the JSON."""
    parser = report.arguments(__doc__, "serving", rounds=5)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure (all)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(rounds=given.rounds, folder=Path(folder))
        rows = [row for part in given.only for row in PARTS[part](bench)]
    report.publish("serving", rows, PACKAGES, given.json, left_out=bench.left_out)


if __name__ == "__main__":
    main()
