"""A network into an artifact: folded, certified on samples, exported, written."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import numpy as np
import onnx
import safetensors.numpy
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from batchyard.artifact import writer
from batchyard.artifact.manifest import (
    ONNX_MODEL,
    SAMPLES,
    WEIGHTS,
    Evaluated,
    Manifest,
    RecalibrationRecord,
    Signature,
)
from batchyard.failpoints import failpoint
from batchyard.nn import FoldError, certify, fold
from batchyard.training import graph
from batchyard.training.code_version import code_version
from batchyard.training.events import TrainingError
from batchyard.training.fold_record import certified, fold_entries
from batchyard.training.network import state_of
from batchyard.training.oracle_cost import affordable
from batchyard.training.probe import probe_of

LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")
NOT_MEASURED = Evaluated(accuracy=0.0, loss=0.0, samples=0)


@dataclass(frozen=True, kw_only=True)
class About:
    """What a manifest says that the network itself does not; see Manifest."""

    model: str
    spec: dict[str, Any]
    classes: tuple[str, ...]
    origin: str
    certificate_samples: str
    population_statistics: str
    job: str = ""
    attempt: int = 0
    seed: int = 0
    sources: tuple[str, ...] = ()
    dataset: str = ""
    dataset_sha256: str = ""
    evaluated: Evaluated = NOT_MEASURED
    input: str = graph.INPUT
    """Names of the served graph's tensors."""
    output: str = graph.OUTPUT
    recalibration: RecalibrationRecord | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    """More files for the artifact."""
    weights_metadata: dict[str, str] | None = None
    """What the file of the weights says of itself."""


def package(uri: str, network: nn.Module, samples: Tensor, about: About) -> tuple[str, Manifest]:
    """Folds and certifies `network` on `samples` [n, ...], writes the artifact, and returns its manifest and digest.

    Of the samples of a costly network only the first are taken: see oracle_cost.

    Raises TrainingError where the network cannot be folded or certified, ArtifactError where it cannot be written.
    """
    example = samples[:2] if len(samples) > 1 else samples.repeat(2, *[1] * (samples.dim() - 1))
    failpoint("publish.before_fold")
    try:
        folded = fold(network, (example,))
        samples = affordable(folded.module, samples)
        certificate = certify(folded, network, (samples,))
    except FoldError as error:
        raise TrainingError(f"the network cannot be folded: {error}", "nothing was published") from error
    failpoint("publish.after_fold")
    served = graph.export(folded.module, example)
    record = certified(certificate, graph.run(served, samples.numpy()))
    probe, probe_files = probe_of(folded, network, example)
    manifest = Manifest(
        model=about.model,
        job=about.job,
        attempt=about.attempt,
        created=time.time(),
        spec=about.spec,
        seed=about.seed,
        libraries=_libraries(),
        dataset=about.dataset,
        dataset_sha256=about.dataset_sha256,
        classes=about.classes,
        parameter_count=sum(parameter.numel() for parameter in network.parameters()),
        inputs=(Signature(name=about.input, datatype="FP32", shape=(-1, *samples.shape[1:])),),
        outputs=(Signature(name=about.output, datatype="FP32", shape=(-1, len(about.classes))),),
        population_statistics=about.population_statistics,
        fold_report=fold_entries(folded),
        certificate=record,
        evaluated=about.evaluated,
        origin=about.origin,
        sources=about.sources,
        certificate_samples=about.certificate_samples,
        probe=probe,
        recalibration=about.recalibration,
    )
    names = {graph.INPUT: about.input, graph.OUTPUT: about.output}
    files = {
        ONNX_MODEL: _renamed(served, names),
        **{name: _renamed(content, {graph.INPUT: about.input}) for name, content in probe_files.items()},
        WEIGHTS: safetensors.torch.save(state_of(network), metadata=about.weights_metadata),
        SAMPLES: safetensors.numpy.save({"inputs": samples.numpy(), "outputs": certificate.expected.numpy()}),
        **about.files,
    }
    failpoint("publish.before_artifact")
    return writer.write(uri, manifest, files), manifest


def decided(outputs: Tensor, samples: Tensor, least: float = 1e-4) -> Tensor:
    """Those of `samples` whose largest output is clear of the next: on a tie, rounding decides, and proves nothing.

    Args:
        outputs: [n, classes] of the network for them.
        samples: [n, ...].
        least: how far apart the two largest must be, as a share of the largest absolute output.
    """
    if outputs.shape[1] < 2:
        return samples
    largest = outputs.topk(2, 1).values
    return samples[largest[:, 0] - largest[:, 1] > least * outputs.abs().max()]


def evaluate(outputs: Tensor, labels: NDArray[np.int64]) -> Evaluated:
    """Accuracy and mean cross-entropy of `outputs` [n, classes]."""
    expected = torch.from_numpy(labels)
    loss = nn.functional.cross_entropy(outputs, expected)
    accuracy = (outputs.argmax(1) == expected).double().mean()
    return Evaluated(accuracy=float(accuracy), loss=float(loss), samples=len(labels))


def _libraries() -> dict[str, str]:
    installed = {name: metadata.version(name) for name in LIBRARIES}
    return {"batchyard": code_version(), "python": platform.python_version(), **installed}


def _renamed(served: bytes, names: Mapping[str, str]) -> bytes:
    """The graph with its input and output called otherwise; what bears such a name inside it moves out of the way."""
    wanted = {old: new for old, new in names.items() if old != new}
    if not wanted:
        return served
    model = onnx.load_from_string(served)
    inner = {new: f"{new}_inner" for new in wanted.values()}
    for node in model.graph.node:
        for tensors in (node.input, node.output):
            tensors[:] = [wanted.get(name, inner.get(name, name)) for name in tensors]
    values: tuple[Any, ...] = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    for value in (*values, *model.graph.initializer):
        value.name = wanted.get(value.name, inner.get(value.name, value.name))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
