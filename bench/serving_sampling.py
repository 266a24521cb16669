# Predicted before the first measurement (2 cores, shared with h2load; the peer is the same plane without either):
#   MLP, shift of 1 %          0.97 of the rate: 380 rows a second through the probe take a few per cent of a core;
#                              p99 at half load 1.05
#   MLP, shadow of 10 %        0.92 of the rate: two copies for each chosen request, and a thread that wants the
#                              interpreter for each run; p99 at half load 1.1
#   ResNet-18, shift of 1 %    0.985 of the rate: 3.5 rows a second of 8 ms on one core; p99 at half load 1.1
#   ResNet-18, shadow of 10 %  0.93 of the rate: 35 rows a second of 6 ms would take 0.21 of a core, and at low priority
#                              beside two that are busy get less; p99 at half load 1.3
"""What it costs callers that some requests are looked at: python -m bench.serving_sampling.

Shift: the default, 1 % of the requests through the probe graph of what training publishes. Shadow: the default, copies
of 10 % of them for a second version. Three planes stand side by side and take turns: with the one, with the other, and
with neither. Each answers as many requests as it can, and then, at a steady rate, half as many as the last can.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import torch
from torch import nn

from batchyard import models
from batchyard.artifact.manifest import ONNX_MODEL
from batchyard.nn import InputNormalization
from batchyard.oip import Stub
from batchyard.training import graph
from batchyard.training.packaging import About, decided, package
from bench import h2load, inference_plane, report
from bench.contest import Cell, Contest
from bench.h2load import Outcome, Shape
from bench.oip_target import Artifact, Target
from bench.resnet import of_torchs_layers, trained_like
from bench.small_artifact import class_names

CELL = Cell(shape=Shape(connections=4, streams=16))
CLASSES, SAMPLES = 10, 64
SHIFT, SHADOW, NEITHER = "shift of 1 %", "shadow of 10 %", "neither"
ENGINES = ("--engines", "onnxruntime,openvino")
NO_SHIFT = ("--shift-sample-rate", "0")
PLANES: dict[str, tuple[str, ...]] = {SHIFT: (), SHADOW: NO_SHIFT, NEITHER: NO_SHIFT}
"""Contender -> the options of its plane."""
PACKAGES = ("numpy", "onnxruntime", "openvino", "pygrpc-native", "torch")


@dataclass(frozen=True, kw_only=True)
class Network:
    """What is served, and for how long a run asks it."""

    name: str
    image: tuple[int, int, int]
    layers: nn.Module
    """Unfolded, from normalised pixels."""
    seconds: float

    def publish(self, folder: Path) -> Artifact:
        """As training does it: with a probe graph."""
        model = nn.Sequential(InputNormalization((0.5,) * self.image[0], (0.25,) * self.image[0]), self.layers).eval()
        images = np.random.default_rng(2).integers(0, 256, (SAMPLES, *self.image), np.uint8)
        samples = torch.tensor(images).float()
        with torch.no_grad():
            samples = decided(model(samples), samples)
        about = About(
            model=self.name, spec={}, classes=class_names(CLASSES), origin="bench", certificate_samples="random",
            population_statistics="alg2",
        )  # fmt: skip
        sha256, _ = package(str(folder), model, samples, about)
        return Artifact(name=self.name, folder=folder, sha256=sha256, rows=images[:32])


def mlp() -> Network:
    """The paper's."""
    plan = models.Plan(image_shape=(1, 28, 28), classes=CLASSES)
    layers = models.build("mlp", plan, seed=0)
    with torch.no_grad():  # running statistics of real activations
        layers.train()(torch.randn(256, *plan.image_shape, generator=torch.Generator().manual_seed(0)))
    return Network(name="mlp", image=plan.image_shape, layers=layers, seconds=1.0)


def resnet18() -> Network:
    """For images of 32x32."""
    plan = models.Plan(image_shape=(3, 32, 32), classes=CLASSES, activation="relu")
    layers = trained_like(of_torchs_layers("resnet18", plan))
    return Network(name="resnet18", image=plan.image_shape, layers=layers, seconds=1.5)


NETWORKS = {"mlp": mlp, "resnet18": resnet18}


def main() -> None:
    """Runs all of it."""
    parser = report.arguments(__doc__, "serving_sampling", rounds=5)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="networks to serve (all)")
    given = parser.parse_args()
    rows: list[report.Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in given.only:
            rows += measure(NETWORKS[name](), Path(folder) / name, given.rounds)
    report.publish("serving_sampling", rows, PACKAGES, given.json)


def measure(network: Network, folder: Path, rounds: int) -> list[report.Row]:
    """The rate at full load, and median latency and p99 at half load."""
    artifact = network.publish(folder / "artifact")
    contest = Contest(artifact.folder / ONNX_MODEL, artifact.rows)
    with ExitStack() as running:
        targets = {plane: running.enter_context(serving(plane, artifact, folder / plane)) for plane in PLANES}
        count = contest.requests_for(CELL, targets[NEITHER], network.seconds)
        full = {plane: partial(contest.run, CELL, target, count) for plane, target in targets.items()}
        for warm_up in full.values():  # the first requests that are chosen open probe and shadow
            warm_up()
        peaks = report.alternate(full, rounds)
        rate = statistics.median(outcome.rate for outcome in peaks[NEITHER]) / 2
        count = round(rate * network.seconds)
        half = {plane: partial(at_rate, contest, target, rate, count) for plane, target in targets.items()}
        steady = report.alternate(half, rounds)
    return [row for plane in PLANES if plane != NEITHER for row in compared(network.name, plane, peaks, steady)]


@contextmanager
def serving(plane: str, artifact: Artifact, folder: Path) -> Iterator[Target]:
    """A plane that does one of the three; its engines have been measured."""
    times = folder.parent / "engines"
    if times.exists():  # measured once for all planes
        shutil.copytree(times, folder / "cache" / "engines")
    with inference_plane.running(folder, *ENGINES, *PLANES[plane]) as started:
        shadow = 2 if plane == SHADOW else None
        started.control.want(artifact.name, 1, artifact.folder, artifact.sha256, shadow=shadow)
        target = Target(name=plane, address=started.grpc, model=artifact.name, tensor=graph.INPUT, pixels=np.uint8)
        target.wait_until_ready(started.process, folder / "log")
        with grpc.insecure_channel(started.grpc) as channel:
            inference_plane.until_measured(Stub(channel), artifact.name)
        if not times.exists():
            shutil.copytree(folder / "cache" / "engines", times)
        yield target
        if failures := started.failures():
            raise RuntimeError(f"requests failed beside {plane}: {failures}")


def at_rate(contest: Contest, target: Target, rate: float, count: int) -> Outcome:
    """So many requests, so many a second. Raises RuntimeError when one is not answered."""
    reply_bytes = contest.check(target)
    outcome = h2load.run(target.address, target.request(contest.pixels[:1]), reply_bytes, CELL.shape, count, rate)
    if outcome.answered != outcome.sent:
        raise RuntimeError(f"{target.name} answered {outcome.answered} of {outcome.sent} requests")
    return outcome


def compared(
    network: str, plane: str, peaks: Mapping[str, Sequence[Outcome]], steady: Mapping[str, Sequence[Outcome]]
) -> Iterator[report.Row]:
    """One plane with the one that does neither."""
    rates = {each: [outcome.rate for outcome in runs] for each, runs in peaks.items()}
    yield report.compare(f"{network}, {CELL}, {plane}", rates, plane, NEITHER, unit="requests/s")
    for quantity, share in (("p50", 0.5), ("p99", 0.99)):
        seconds = {each: [outcome.quantile(share) for outcome in runs] for each, runs in steady.items()}
        label = f"{network}, half load, {plane}, {quantity}"
        yield report.compare(label, seconds, plane, NEITHER, unit="ms", scale=1e3)


if __name__ == "__main__":
    main()
