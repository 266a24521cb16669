"""python -m batchyard.training.exporting FOLDER: the artifact in FOLDER/artifact as a torch.export program, model.pt2.

A task; see task.py. order.json: manifest_sha256.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from batchyard.artifact.reader import read_samples, verify
from batchyard.nn import fold
from batchyard.training import task
from batchyard.training.events import TrainingError
from batchyard.training.network import rebuild, run_in_parts

PROGRAM = "model.pt2"


def work(order: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Writes the program and returns its largest error on the certificate's samples. Raises TrainingError."""
    artifact = folder / "artifact"
    manifest = verify(artifact, order["manifest_sha256"])
    samples = read_samples(artifact)
    inputs = torch.from_numpy(samples.inputs)
    example = inputs[:2] if len(inputs) > 1 else inputs.repeat(2, *[1] * (inputs.dim() - 1))
    folded = fold(rebuild(artifact, manifest), (example,))
    program = torch.export.export(
        folded.module, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},), strict=False
    )
    _forget_this_machine(program)
    torch.export.save(program, folder / PROGRAM)
    outputs = run_in_parts(torch.export.load(folder / PROGRAM).module(), inputs)
    error = float((outputs.double() - torch.from_numpy(samples.outputs)).abs().max())
    if not error <= manifest.certificate.bound:
        bound = manifest.certificate.bound
        cause = f"the exported program errs by {error:.3g} on the certificate's samples; its bound is {bound:.3g}"
        raise TrainingError(cause, "nothing was exported; export it as ONNX")
    return {"max_error": error}


def _forget_this_machine(program: ExportedProgram) -> None:
    """Takes out stack traces, which name the paths of the machine that exports."""
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)


if __name__ == "__main__":
    sys.exit(task.main(work, sys.argv[1:]))
