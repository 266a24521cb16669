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
# Predicted before a new version was held against its certificate in short runs with rests (engines/beside.py), its
# predecessor freed on a thread, and requests to a full queue refused unread; the first was written after a run with the
# rests alone (1.48):
#   ResNet-18, swap         p99 1.3 of the steady state's at half load, not 2.7; MLP 1.2 to 1.3 as it is
#   ResNet-18 at 4x         0.95 of the peak; a refusal in 2 ms
# Predicted before large tensors were left out of the parsing (request_bytes.py):
#   MLP, 32 rows, 4x4       p99 0.9 of Triton's, not 1.0: two copies of 100 kB less for each request
"""The inference plane against Triton and MLServer under h2load: `make bench-serving`, or `python -m bench.serving`.

Parts: mlp (784-100-100-100-10, FP32 rows: our plane, Triton, MLServer), resnet (ResNet-18 at 32x32: those, the chosen
engine in this process, and eager torch, unfolded), precision (ResNet-18 in bf16: our plane in both, and eager torch),
swap, overload and streams (our plane alone). All servers have the
same ONNX model; known requests are checked against ONNX Runtime in this process before and after each run, and each
run's replies are counted by their bytes. The peers' environments are made below .cache. TRITON_START names the script
that starts Triton (default ../shared/peers/triton/start.sh).
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import numpy as np

from batchyard.artifact.manifest import MANIFEST, ONNX_MODEL
from batchyard.artifact.reader import sha256_of
from bench import contest, inference_plane, report, serving_overload, serving_peers, serving_streams, serving_swap
from bench.contest import Cell, Contest
from bench.h2load import Shape
from bench.oip_target import Artifact, Target
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
    "4x4, 32 rows": {"Triton p99": 1.0},
}
RESNET_BARS = {"Triton p99": 1.0}
ENGINE_BAR, EAGER_BAR = 0.95, 2.0
BATCH = 32
"""Rows of a batch in process: what 4x16 gives, half of the requests in the engine and half on their way."""
SWAP_SECONDS, DEEP_SWAP_SECONDS = 4.0, 10.0
"""Of one load during which versions are swapped."""
OVERLOAD_SECONDS, DEEP_OVERLOAD_SECONDS = 2.0, 4.0
"""For so long one run sends. Meanwhile ResNet-18 fills six batches of 128 rows on one core."""
MLP = SmallNetwork(row_shape=(784,))
PACKAGES = ("grpcio", "numpy", "onnxruntime", "protobuf", "pygrpc-native", "torch")


class Bench:
    """One run of it. Artifacts and tables of engine times are made once for all parts."""

    def __init__(self, rounds: int, folder: Path) -> None:
        self.left_out: dict[str, str] = {}
        """What could not be measured -> why."""
        self._rounds = rounds
        self._folder = folder
        self._engine_times = folder / "engines"

    def mlp(self) -> list[report.Row]:
        """The small model, every cell."""
        artifact = self._small()
        model = artifact.folder / ONNX_MODEL
        ours = Target(name=OURS, model=artifact.name, tensor="pixels")
        with ExitStack() as running:
            plane = running.enter_context(self._plane("mlp"))
            targets = [running.enter_context(inference_plane.serving(plane, ours, artifact.folder, artifact.sha256))]
            targets += self._start_peers(running, plane, model, MLP.row_shape[0])
            measuring = Contest(model, MLP.pixels(32))
            rows = []
            for cell in MLP_CELLS:
                outcomes = measuring.alternate(cell, targets, self._rounds)
                rows += contest.rows(f"MLP, {cell}", outcomes, OURS, MLP_BARS.get(str(cell), {}))
        return rows

    def resnet(self) -> list[report.Row]:
        """ResNet-18 served, in process, and unfolded."""
        from bench import serving_resnet as resnet

        artifact = self._deep()
        model = artifact.folder / ONNX_MODEL
        ours = Target(name=OURS, model=artifact.name, tensor="pixels", pixels=np.uint8)
        with ExitStack() as running:
            plane = running.enter_context(self._plane("resnet"))
            targets = [running.enter_context(inference_plane.serving(plane, ours, artifact.folder, artifact.sha256))]
            targets += self._start_peers(running, plane, model, resnet.FEATURES)
            measuring = Contest(model, resnet.pixels(32))
            outcomes = measuring.alternate(BUSY, targets, self._rounds)
            cache = plane / "cache"  # so that the engines are not measured anew, perhaps with another result
            chosen = resnet.chosen_engine(artifact.folder, artifact.sha256, ours.model, cache, BATCH)
            engine, run_engine = running.enter_context(chosen)
            calls = {f"{engine} in process": run_engine, "eager torch, unfolded": resnet.eager(resnet.network(), BATCH)}
            contenders = {OURS: measuring.rate(BUSY, targets[0]), **resnet.rates(calls, BATCH)}
            measured = report.alternate(contenders, self._rounds)
        name = f"ResNet-18 at 32x32, {BUSY}"
        rows = contest.rows(name, outcomes, OURS, RESNET_BARS)
        for peer, bar in zip(calls, (ENGINE_BAR, EAGER_BAR), strict=True):
            rows.append(report.compare(name, measured, OURS, peer, unit="samples/s", bar=bar))
        return rows

    def precision(self) -> list[report.Row]:
        """ResNet-18 in bf16."""
        from bench import serving_precision

        with self._plane("bf16") as bf16, self._plane("fp32") as fp32:
            try:
                return serving_precision.rows(self._deep(), (bf16, fp32), BUSY, BATCH, self._rounds)
            except MissingPeerError as error:
                self.left_out["bf16"] = str(error)
                return []

    def swap(self) -> list[report.Row]:
        """A new version under load."""
        mlps, resnets = [self._small(0), self._small(1)], [self._deep(0), self._deep(1)]
        with self._plane("swap-mlp") as plane:
            rows = serving_swap.rows("MLP", mlps, plane, self._rounds, SWAP_SECONDS, 40_000)
        with self._plane("swap-resnet") as plane:
            return rows + serving_swap.rows("ResNet-18", resnets, plane, self._rounds, DEEP_SWAP_SECONDS, 500)

    def overload(self) -> list[report.Row]:
        """Four times what our plane can answer."""
        with self._plane("overload-mlp") as plane:
            rows = serving_overload.rows("MLP", self._small(), plane, self._rounds, OVERLOAD_SECONDS)
        with self._plane("overload-resnet") as plane:
            short, seconds = serving_overload.SHORT_QUEUE, DEEP_OVERLOAD_SECONDS
            return rows + serving_overload.rows("ResNet-18", self._deep(), plane, self._rounds, seconds, *short)

    def streams(self) -> list[report.Row]:
        """ModelStreamInfer on both transports."""
        return serving_streams.rows(self._small(), self._folder / "streams", self._rounds)

    def _small(self, seed: int = 0) -> Artifact:
        folder, network = self._folder / f"mlp-{seed}", dataclasses.replace(MLP, seed=seed)
        sha256 = sha256_of(folder / MANIFEST) if folder.exists() else publish(folder, network)
        return Artifact(name="mnist", folder=folder, sha256=sha256, rows=MLP.pixels(1))

    def _deep(self, seed: int = 0) -> Artifact:
        from bench import serving_resnet as resnet

        folder, name = self._folder / f"resnet-{seed}", "resnet18"
        exists = folder.exists()
        sha256 = sha256_of(folder / MANIFEST) if exists else resnet.publish(folder, resnet.network(seed), name)
        return Artifact(name=name, folder=folder, sha256=sha256, rows=resnet.pixels(1))

    @contextmanager
    def _plane(self, name: str) -> Iterator[Path]:
        """A folder for a plane, which knows the engine times that those before it have measured."""
        folder = self._folder / f"plane-{name}"
        tables = folder / "cache" / "engines"
        if self._engine_times.exists():
            shutil.copytree(self._engine_times, tables)
        yield folder
        if tables.exists():
            shutil.copytree(tables, self._engine_times, dirs_exist_ok=True)

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
    "precision": Bench.precision,
    "swap": Bench.swap,
    "overload": Bench.overload,
    "streams": Bench.streams,
}


def main() -> None:
    """Measures the parts asked for, writes the JSON after each, and prints the table."""
    parser = report.arguments(__doc__, "serving", rounds=5)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure (all)")
    given = parser.parse_args()
    rows: list[report.Row] = []
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(rounds=given.rounds, folder=Path(folder))
        for part in given.only:
            began = time.monotonic()
            try:
                rows += PARTS[part](bench)
            except Exception as error:  # the other parts are measured all the same
                traceback.print_exc()
                bench.left_out[part] = f"{type(error).__name__}: {error}"
                failed = True
            print(f"{part}: {time.monotonic() - began:.0f} s", flush=True)
            report.write("serving", rows, PACKAGES, given.json, left_out=bench.left_out)
    report.publish("serving", rows, PACKAGES, given.json, left_out=bench.left_out)
    sys.exit(failed)


if __name__ == "__main__":
    main()
