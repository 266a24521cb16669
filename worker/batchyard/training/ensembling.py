"""python -m batchyard.training.ensembling FOLDER: the artifacts FOLDER/member0, member1, ... as one.

A task; see task.py. order.json: model, artifact_uri, members, each with name and manifest_sha256.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from batchyard.artifact.manifest import Manifest
from batchyard.artifact.reader import read_samples, verify
from batchyard.training import task
from batchyard.training.ensemble import Ensemble
from batchyard.training.events import TrainingError
from batchyard.training.network import ENSEMBLE, ONNX, rebuild, run_in_parts
from batchyard.training.packaging import About, decided, package

CERTIFICATE_SAMPLES = 512


def work(order: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Writes the artifact and returns its manifest's digest. Raises SpecError, TrainingError, ArtifactError.

    The certificate holds the ensemble to its members', too: its largest error is at most twice their largest bound.
    """
    folders = [folder / f"member{place}" for place in range(len(order["members"]))]
    manifests = [verify(f, m["manifest_sha256"]) for f, m in zip(folders, order["members"], strict=True)]
    names = [member["name"] for member in order["members"]]
    _check(names, manifests)
    network = Ensemble(rebuild(f, manifest) for f, manifest in zip(folders, manifests, strict=True)).eval()
    files: dict[str, bytes] = {}
    parts = [_part(m.spec, f, f"member{i}-", files) for i, (m, f) in enumerate(zip(manifests, folders, strict=True))]
    about = About(
        model=order["model"],
        spec={"model": {"architecture": ENSEMBLE, "members": parts}},
        classes=manifests[0].classes,
        origin="ensemble",
        certificate_samples=_same([m.certificate_samples for m in manifests]) or "generated",
        population_statistics=_same([m.population_statistics for m in manifests]) or "each member's own",
        sources=tuple(names),
        dataset=_same([m.dataset for m in manifests]),
        dataset_sha256=_same([m.dataset_sha256 for m in manifests]),
        input=manifests[0].inputs[0].name,
        output=manifests[0].outputs[0].name,
        files=files,
    )
    digest, manifest = package(order["artifact_uri"], network, _samples(network, folders), about)
    allowed = 2 * max(m.certificate.bound for m in manifests)
    if not manifest.certificate.max_error <= allowed:
        cause = f"the ensemble errs by {manifest.certificate.max_error:.3g}; its members' bounds allow {allowed:.3g}"
        raise TrainingError(cause, "nothing was published")
    return {"manifest_sha256": digest}


def _check(names: Sequence[str], manifests: Sequence[Manifest]) -> None:
    """All members take the same input and name the same classes. Raises SpecError."""
    first = manifests[0]
    for name, manifest in zip(names[1:], manifests[1:], strict=True):
        if manifest.inputs[0].shape != first.inputs[0].shape:
            shapes = f"{list(manifest.inputs[0].shape)}, {names[0]} takes {list(first.inputs[0].shape)}"
            raise task.violation("members", f"{name} takes input {shapes}; expected the same of all")
        if manifest.classes != first.classes:
            text = f"{name} has other classes than {names[0]}; expected the same of all, in the same order"
            raise task.violation("members", text)


def _part(spec: Mapping[str, Any], folder: Path, prefix: str, files: dict[str, bytes]) -> dict[str, Any]:
    """What a manifest of the ensemble says of one member; the files that it names get names of their own."""
    model = dict(spec["model"])
    if model["architecture"] == ONNX:
        files[prefix + model["file"]] = (folder / model["file"]).read_bytes()
        model["file"] = prefix + model["file"]
    if model["architecture"] == ENSEMBLE:
        model["members"] = [_part(member, folder, prefix, files) for member in model["members"]]
    return {"model": model, **({"input": spec["input"]} if "input" in spec else {})}


def _samples(network: Ensemble, folders: Sequence[Path]) -> Tensor:
    """Of all members' samples, spread evenly."""
    inputs = torch.cat([torch.from_numpy(read_samples(folder).inputs) for folder in folders])
    inputs = torch.unique(inputs, dim=0)  # members of one dataset have the same samples
    inputs = inputs[:: -(-len(inputs) // CERTIFICATE_SAMPLES)].contiguous()
    certain = decided(run_in_parts(network, inputs), inputs)
    if not len(certain):
        cause = "the ensemble decides for no class on any of its members' samples"
        raise TrainingError(cause, "choose members that agree more")
    return certain


def _same(values: Sequence[str]) -> str:
    """The one value that all have; empty where they differ."""
    return values[0] if len(set(values)) == 1 else ""


if __name__ == "__main__":
    sys.exit(task.main(work, sys.argv[1:]))
