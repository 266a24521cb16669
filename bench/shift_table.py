# Predicted before the first measurement: clean pictures below 0.02, every corruption above 0.2, ten times the clean
# ones or more. Contrast and fog, which are affine in the pixels, are undone but for their rounding: within a point of
# the clean accuracy. Noise and blur lose information: more than half of the lost accuracy comes back.
# Seen: so, but for contrast, 2.5 and 6 points short: each picture is pulled towards a mean of its own, and a prior of
# 16 weighs when the variance is down to a 25th; and for noise and blur on the MLP, at a shift of 0.19.
"""Covariate shift at serving time, found and undone: `python -m bench.shift_table`.

Trains a network on MNIST, publishes it, and shows it corrupted pictures. A thousand of the test pictures, without their
labels, are what an inference plane would have sampled: their shift is measured with the probe graph, and the version
is recalibrated with them. Accuracy is that of the served graphs on the other nine thousand.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from batchyard import data
from batchyard.artifact.manifest import ONNX_MODEL
from batchyard.artifact.reader import verify
from batchyard.data import Dataset
from batchyard.serving.shift_probe import Probe
from batchyard.serving.shift_report import layer_reports
from batchyard.serving.shift_score import RowSums
from batchyard.training import recalibrate, worker
from batchyard.training.context import WorkerContext
from batchyard.training.events import Published
from batchyard.training.spec import TrainingJobSpec
from bench import report
from bench.corruptions import CORRUPTIONS, Pixels

SAMPLED = 1000
PRIOR = 16.0
LEAST_RATIO = 10.0
"""How many times the clean pictures' shift a corruption's is, at least."""
JOBS: dict[str, dict[str, Any]] = {
    "mlp": {
        "model": {"architecture": "mlp", "hidden": [100, 100, 100], "activation": "sigmoid"},
        "data": {"batch_size": 60},
        "optimizer": {"learning_rate": 0.1, "momentum": 0.9},
    },
    "lenet": {
        "model": {"architecture": "lenet", "activation": "relu"},
        "data": {"batch_size": 120},
        "optimizer": {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.0001},
    },
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One corruption of one network's pictures."""

    network: str
    corruption: str
    """"none": clean pictures."""
    shift: float
    """Of the source version."""
    shift_after: float
    """Of the recalibrated version."""
    accuracy: float
    accuracy_after: float


def main() -> None:
    """Prints a table and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = os.environ.get("BATCHYARD_DATA", "")
    parser.add_argument(
        "--data", default=folder, required=not folder, help="folder with MNIST (default $BATCHYARD_DATA)"
    )
    parser.add_argument("--steps", type=int, default=2000, help="training steps (default %(default)s)")
    parser.add_argument("--json", type=Path, default=report.RESULTS / "shift_table.json", help="results (%(default)s)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    dataset = data.load("mnist", [given.data])
    lines: list[Line] = []
    for name in JOBS:
        with tempfile.TemporaryDirectory() as scratch:
            lines += measure(name, dataset, [given.data], given.steps, Path(scratch))
    print(table(lines) + "\n")
    report.publish("shift_table", rows(lines), ("torch", "onnxruntime", "numpy"), given.json)


def measure(network: str, dataset: Dataset, folders: list[str], steps: int, scratch: Path) -> list[Line]:
    """A line for clean pictures and one for each corruption."""
    source, digest = trained(network, dataset.name, folders, steps, scratch)
    pictures = dataset.test.images.astype(np.float32)
    lines = []
    for name, corrupt in {"none": _as_they_are, **CORRUPTIONS}.items():
        seen = corrupt(pictures)
        new, new_digest = recalibrated(source, digest, seen[:SAMPLED], scratch / name)
        lines.append(
            Line(
                network=network,
                corruption=name,
                shift=shift_of(source, digest, seen[:SAMPLED]),
                shift_after=shift_of(new, new_digest, seen[:SAMPLED]),
                accuracy=accuracy_of(source, seen[SAMPLED:], dataset.test.labels[SAMPLED:]),
                accuracy_after=accuracy_of(new, seen[SAMPLED:], dataset.test.labels[SAMPLED:]),
            )
        )
    return lines


def trained(network: str, dataset: str, folders: list[str], steps: int, scratch: Path) -> tuple[Path, str]:
    """A published version: its artifact's folder and its manifest's digest."""
    job = {**JOBS[network], "name": network, "steps": steps, "seed": 1, "publish": {"model": network}}
    job["data"] = {**job["data"], "dataset": dataset}
    digests: list[str] = []
    context = WorkerContext(
        job=network,
        attempt=1,
        spec=TrainingJobSpec.from_mapping(job),
        rank=0,
        world_size=1,
        connect=_alone,
        emit=lambda event: digests.append(event.manifest_sha256) if isinstance(event, Published) else None,
        stop_requested=lambda: False,
        artifact_uri=str(scratch / "source"),
        data_folders=tuple(folders),
    )
    worker.run(context)
    return scratch / "source", digests[0]


def recalibrated(source: Path, digest: str, inputs: Pixels, scratch: Path) -> tuple[Path, str]:
    """The version for `inputs`, by the control plane's own task."""
    scratch.mkdir()
    shutil.copytree(source, scratch / "source")
    with (scratch / "inputs").open("wb") as file:
        np.savez(file, inputs=inputs)
    order = {"model": "any", "source": "models/any/versions/1", "manifest_sha256": digest, "prior": PRIOR}
    answer = recalibrate.work({**order, "artifact_uri": str(scratch / "new")}, scratch)
    return scratch / "new", answer["manifest_sha256"]


def shift_of(artifact: Path, digest: str, inputs: Pixels) -> float:
    """The version's shift on `inputs`, as an inference plane computes it."""
    manifest = verify(artifact, digest)
    assert manifest.probe is not None
    moments = Probe(artifact, manifest).run(inputs.reshape(len(inputs), -1))
    layers = layer_reports(manifest.probe.layers, RowSums.of(moments))
    return float(np.mean([layer.shift for layer in layers if layer.shift is not None]))


def accuracy_of(artifact: Path, pictures: Pixels, labels: Any) -> float:
    """Of the served graph."""
    session = onnxruntime.InferenceSession(artifact / ONNX_MODEL, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: pictures})
    return float((logits.argmax(1) == labels).mean())


def rows(lines: list[Line]) -> list[report.Row]:
    """For the results file: what must be small beside what it is small beside."""
    clean = {line.network: line.shift for line in lines if line.corruption == "none"}
    found = []
    for line in (line for line in lines if line.corruption != "none"):
        name = f"{line.network}, {line.corruption}"
        found += [
            report.Row(
                name=f"{name}: shift of clean pictures", ours=clean[line.network], peer="corrupted",
                peer_value=line.shift, unit="training variances", bar=1 / LEAST_RATIO,
            ),
            report.Row(
                name=f"{name}: wrong, recalibrated", ours=1 - line.accuracy_after, peer="before",
                peer_value=1 - line.accuracy, unit="share", bar=1.0,
            ),
        ]  # fmt: skip
    return found


def table(lines: list[Line]) -> str:
    """For people."""
    columns = ("network", "corruption", "shift", "accuracy", "shift, recalibrated", "accuracy, recalibrated")
    cells = [columns] + [
        (
            line.network, line.corruption, f"{line.shift:.4f}", f"{line.accuracy:.2%}", f"{line.shift_after:.4f}",
            f"{line.accuracy_after:.2%}",
        )
        for line in lines
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in cells) for column in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)


def _as_they_are(pixels: Pixels) -> Pixels:
    return pixels


def _alone() -> Any:
    raise AssertionError("a single worker has nobody to meet")


if __name__ == "__main__":
    main()
