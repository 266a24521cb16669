"""python -m batchyard.training.importing FOLDER: a network from elsewhere becomes an artifact. A task; see task.py.

order.json: model, network (NetworkSpec of the API as a mapping), artifact_uri. Beside it the files `weights` or `onnx`,
and optionally `samples`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from batchyard.artifact.manifest import Evaluated
from batchyard.training import task
from batchyard.training.events import TrainingError
from batchyard.training.import_onnx import compare_with_file, from_onnx
from batchyard.training.import_samples import generated_samples, read_samples
from batchyard.training.import_weights import from_weights
from batchyard.training.imported import Imported
from batchyard.training.network import run_in_parts
from batchyard.training.packaging import NOT_MEASURED, About, decided, evaluate, package

CERTIFICATE_SAMPLES = {"given": 512, "generated": 128}
"""By their origin. The fp64 oracle is what costs: minutes for 512 samples of a deep network on two cores."""


def work(order: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Writes the artifact and returns its manifest's digest. Raises SpecError, TrainingError, ArtifactError."""
    given = order.get("network", {})
    onnx_file = folder / "onnx"
    imported = (
        from_onnx(onnx_file.read_bytes(), given) if onnx_file.exists() else from_weights(folder / "weights", given)
    )
    chosen = folder / "samples"
    if chosen.exists():
        samples = read_samples(chosen, imported.shape, len(imported.classes))
    else:
        samples = generated_samples(imported.shape, imported.scale)
    outputs = run_in_parts(imported.network, samples.inputs)
    if not bool(torch.isfinite(outputs).all()):
        raise task.violation(
            "samples", "the network's outputs for them are not all finite; give samples it is made for"
        )
    certain = decided(outputs, samples.inputs)[: CERTIFICATE_SAMPLES[samples.origin]]
    if not len(certain):
        cause = f"the network decides for no class on any of {len(samples.inputs)} {samples.origin} samples"
        raise TrainingError(cause, "give samples of its own kind with --samples")
    if imported.files:
        compare_with_file(imported, certain)
    evaluated = NOT_MEASURED if samples.labels is None else evaluate(outputs, samples.labels)
    digest = _package(order, imported, certain, samples.origin, evaluated)
    return {"manifest_sha256": digest}


def _package(order: Mapping[str, Any], imported: Imported, certain: Tensor, origin: str, evaluated: Evaluated) -> str:
    about = About(
        model=order["model"],
        spec=imported.spec,
        classes=imported.classes,
        origin="imported",
        certificate_samples=origin,
        population_statistics="imported",
        evaluated=evaluated,
        input=imported.input,
        output=imported.output,
        files=imported.files,
    )
    return package(order["artifact_uri"], imported.network, certain, about)[0]


if __name__ == "__main__":
    sys.exit(task.main(work, sys.argv[1:]))
