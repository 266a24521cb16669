# Predicted before the first measurement (ratios of rates, with to without):
#   training, MLP           0.985: a point each 20 steps with statistics of 3 layers (1%), loss and accuracy (0.5%)
#     after 1,000 steps     0.982: a fifth of the points have statistics then (0.7%), loss and accuracy (1.1%)
#   training, ResNet-18     0.985: one point of 20 with 8 samples of each layer's activations (1%), the rest nothing
#   serving, counted        0.98: 1.2 us of the 24 to 30 that a request takes, a part of it beside the engine
#   serving, and scraped    0.98: two scrapes a second take about 2 ms each
#   serving, and shift      0.97: 1% of the requests once more, through a graph with probes, on a thread of its own
"""What all metrics together cost: python -m bench.metrics_cost.

Training: the engine's loop with its metrics (points every 20 steps, loss and accuracy, where a step's time goes,
activation statistics of every layer) against the same loop that measures nothing between its first step and its last;
one thread, by processor time. A job takes statistics less often after its first 1,000 steps (training/watch.py), which
a small network makes in less than a second: the bar is for the steps that follow. Serving: planes under h2load that
count each request, are scraped twice a second, and measure shift on 1% of the requests besides, each against a plane
that counts nothing (bench/unmetered_plane.py).
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
import torch

from batchyard.artifact.manifest import ONNX_MODEL
from batchyard.data import Dataset
from batchyard.oip import Stub
from batchyard.training.meter import Meter
from batchyard.training.step_clock import StepClock
from batchyard.training.watch import DENSE_STEPS
from bench import inference_plane, report, training_engine
from bench.contest import Cell, Contest
from bench.h2load import Shape
from bench.oip_target import Target
from bench.small_artifact import SmallNetwork, publish
from bench.training_engine import MLP, RESNET18, WARM_UP, Case

NETWORK = SmallNetwork(row_shape=(784,))
CELL = Cell(shape=Shape(connections=4, streams=16))
NOTHING, COUNTED, SCRAPED, ALL = "nothing counted", "counted", "counted and scraped", "counted, scraped and shift"
TRAINING_BAR, SERVING_BAR = 0.98, 0.97
SCRAPE_SECONDS = 0.5
PACKAGES = ("torch", "numpy", "onnxruntime", "prometheus-client", "pygrpc-native")
BEGINNINGS = {"mlp": "training, MLP", "resnet18": "training, ResNet-18", "serving": "serving"}
"""Part -> how the names of its rows begin."""
PARTS = tuple(BEGINNINGS)


def main() -> None:
    """Measures the parts asked for, prints the table and writes the JSON."""
    parser = report.arguments(__doc__, "metrics_cost", rounds=7)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure (all)")
    given = parser.parse_args()
    report.keep_freed_memory()
    parts: dict[str, Callable[[], list[report.Row]]] = {
        "mlp": lambda: small_network(2 * given.rounds),
        "resnet18": lambda: training(RESNET18, given.rounds),
        "serving": lambda: serving(given.rounds),
    }
    kept = _rows_of(given.json)
    rows = [row for part in PARTS for row in (parts[part]() if part in given.only else kept.get(part, []))]
    report.publish("metrics_cost", rows, PACKAGES, given.json)


def _rows_of(path: Path) -> dict[str, list[report.Row]]:
    """By part what a results file has: parts that are not asked for stay as they are."""
    found: dict[str, list[report.Row]] = {}
    for row in json.loads(path.read_text())["rows"] if path.exists() else []:
        made = report.Row(
            **{name: row[name] for name in ("name", "ours", "peer", "peer_value", "unit", "bar", "spread")}
        )
        part = next(part for part, beginning in BEGINNINGS.items() if made.name.startswith(beginning))
        found.setdefault(part, []).append(made)
    return found


def training(case: Case, rounds: int, *, first: int = 2, bar: float | None = TRAINING_BAR) -> list[report.Row]:
    """Samples a second of the engine from step number `first` on, with its metrics and without."""
    torch.set_num_threads(1)
    data = case.data()
    for contender in (engine, silent):
        contender(dataclasses.replace(case, steps=WARM_UP), data)
    contenders = {"with": lambda: engine(case, data, first), "without": lambda: silent(case, data, first)}
    measured = report.alternate(contenders, rounds)
    name = f"training, {case.name}, from step {first} on"
    return [report.compare(name, measured, "with", "without", unit="samples/s", bar=bar)]


def small_network(rounds: int) -> list[report.Row]:
    """While every point has statistics, and when only some have."""
    long = dataclasses.replace(MLP, steps=2 * DENSE_STEPS)
    return training(MLP, rounds, bar=None) + training(long, rounds, first=DENSE_STEPS + 1)


def engine(case: Case, data: Dataset, first: int = 2) -> float:
    """As a job trains, from step number `first` on."""
    return training_engine.engine(case, data, time.process_time, first=first)


def silent(case: Case, data: Dataset, first: int = 2) -> float:
    """As a job would train that measured nothing between its first step and its last."""
    quiet = dataclasses.replace(
        case, job={**case.job, "metrics": {"activation_statistics": False, "every_steps": case.steps}}
    )
    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(Meter, "add", _count))
        for name in ("begin_step", "lap"):
            patches.enter_context(mock.patch.object(StepClock, name, _ignore))
        return engine(quiet, data, first)


def _count(meter: Any, *given: object) -> None:
    meter._micro_batches += 1


def _ignore(clock: object, *given: object, **more: object) -> None:
    """Instead of measuring."""


def serving(rounds: int) -> list[report.Row]:
    """Answers a second of planes that watch more and more."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        sha256 = publish(Path(folder) / "artifact", NETWORK)
        planes = {name: running.enter_context(plane(Path(folder), name, sha256)) for name in (NOTHING, COUNTED, ALL)}
        contest = Contest(Path(folder) / "artifact" / ONNX_MODEL, NETWORK.pixels(32))
        rates = {name: contest.rate(CELL, target) for name, (target, _) in planes.items()}
        scrape = {name: planes[name][1].failures for name in (COUNTED, ALL)}
        contenders: dict[str, Callable[[], float]] = {
            NOTHING: rates[NOTHING],
            COUNTED: rates[COUNTED],
            SCRAPED: lambda: scraped(rates[COUNTED], scrape[COUNTED]),
            ALL: lambda: scraped(rates[ALL], scrape[ALL]),
        }
        measured = report.alternate(contenders, rounds)
    name = f"serving, MLP 784-100-100-100-10, {CELL}"
    return [
        report.compare(f"{name}, {each}", measured, each, NOTHING, unit="requests/s", bar=SERVING_BAR)
        for each in (COUNTED, SCRAPED, ALL)
    ]


@contextmanager
def plane(folder: Path, name: str, sha256: str) -> Iterator[tuple[Target, inference_plane.Plane]]:
    """One that answers, all of its engines measured."""
    module = "bench.unmetered_plane" if name == NOTHING else "batchyard.serving"
    shift = "0.01" if name == ALL else "0"
    own = folder / name.replace(" ", "-")
    with inference_plane.running(own, "--shift-sample-rate", shift, "--engines", "onnxruntime", module=module) as made:
        made.control.want("mnist", 1, folder / "artifact", sha256)
        target = Target(name=name, model="mnist", tensor="pixels", address=made.grpc)
        target.wait_until_ready(made.process, own / "log")
        with grpc.insecure_channel(made.grpc) as channel:
            inference_plane.until_measured(Stub(channel), "mnist")
        yield target, made


def scraped(rate: Callable[[], float], scrape: Callable[[], object]) -> float:
    """The rate while somebody scrapes."""
    ended = threading.Event()

    def again_and_again() -> None:
        while not ended.wait(SCRAPE_SECONDS):
            scrape()

    scraper = threading.Thread(target=again_and_again)
    scraper.start()
    try:
        return rate()
    finally:
        ended.set()
        scraper.join()


if __name__ == "__main__":
    main()
