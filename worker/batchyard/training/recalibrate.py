"""python -m batchyard.training.recalibrate FOLDER: a version's statistics from unlabelled inputs. A task; see task.py.

order.json: model, source (models/{model}/versions/{n}), manifest_sha256, prior, artifact_uri. Beside it the source's
artifact in the folder `source`, and the file `inputs`. The inputs are used and not kept: the new version is certified
on the source's samples.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from batchyard.artifact.manifest import ONNX_MODEL, PROBE, SAMPLES, WEIGHTS, Manifest, RecalibrationRecord
from batchyard.artifact.reader import read_samples, verify
from batchyard.nn import adapt_statistics
from batchyard.training import import_samples, task
from batchyard.training.events import TrainingError
from batchyard.training.network import rebuild
from batchyard.training.packaging import About, package
from batchyard.training.spec import SpecError, Violation

MOST_BYTES = 2 << 30
"""Of memory for the inputs' values between two layers: all inputs go through the network at once."""
VALUES_AT_ONCE = 4
"""How many of the largest such values live at the same time, residual connections included."""


def work(order: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Writes the artifact and returns its manifest's digest. Raises SpecError, TrainingError, ArtifactError."""
    source = folder / "source"
    manifest = verify(source, order["manifest_sha256"])
    network = rebuild(source, manifest)
    inputs = _read_inputs(folder / "inputs", manifest)
    inputs = spread(inputs, rows_that_fit(network, inputs[:1]))
    try:
        adapt_statistics(network, inputs, float(order["prior"]))
    except ValueError as error:
        raise TrainingError(f"the statistics cannot be taken: {error}", "nothing was published") from error
    record = RecalibrationRecord(
        prior=float(order["prior"]),
        samples=len(inputs),
        inputs_sha256=hashlib.sha256(inputs.numpy().tobytes()).hexdigest(),
    )
    samples = torch.from_numpy(read_samples(source).inputs)
    digest, _ = package(order["artifact_uri"], network, samples, _about(order, manifest, record, source))
    return {"manifest_sha256": digest, "samples": len(inputs)}


@torch.no_grad()
def rows_that_fit(network: nn.Module, one: Tensor) -> int:
    """How many inputs may go through `network` at once, by the largest value that it makes of `one` [1, ...]."""
    largest = one.numel()

    def look(_: nn.Module, __: Any, output: Any) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.numel())

    handles = [module.register_forward_hook(look) for module in network.modules()]
    try:
        network(one)
    finally:
        for handle in handles:
            handle.remove()
    return max(2, MOST_BYTES // (VALUES_AT_ONCE * largest * one.element_size()))


def spread(inputs: Tensor, most: int) -> Tensor:
    """At most `most` of `inputs` [n, ...], evenly spaced."""
    return inputs if len(inputs) <= most else inputs[torch.linspace(0, len(inputs) - 1, most).long()]


def _read_inputs(path: Path, manifest: Manifest) -> Tensor:
    """The array `inputs` of the NPZ file, FP32 [n, ...]. Raises SpecError for the field `inputs`."""
    try:
        inputs = import_samples.read_samples(path, manifest.inputs[0].shape[1:], len(manifest.classes)).inputs
    except SpecError as error:
        raise SpecError([Violation("inputs", wrong.description) for wrong in error.violations]) from error
    if len(inputs) < 2:
        raise task.violation("inputs", "1 input given; statistics need at least 2, and 32 or more to be good")
    return inputs


def _about(order: Mapping[str, Any], manifest: Manifest, record: RecalibrationRecord, source: Path) -> About:
    own = set(manifest.files) - {ONNX_MODEL, WEIGHTS, SAMPLES, PROBE}
    return About(
        model=order["model"],
        spec=manifest.spec,
        classes=manifest.classes,
        origin="recalibrated",
        certificate_samples=manifest.certificate_samples,
        population_statistics="recalibrated",
        sources=(order["source"],),
        dataset=manifest.dataset,
        dataset_sha256=manifest.dataset_sha256,
        input=manifest.inputs[0].name,
        output=manifest.outputs[0].name,
        files={name: (source / name).read_bytes() for name in own},
        recalibration=record,
    )


if __name__ == "__main__":
    sys.exit(task.main(work, sys.argv[1:]))
