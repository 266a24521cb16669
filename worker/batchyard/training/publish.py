"""Publishing: population statistics, fold, certificate, graph, artifact. All workers take part in the first step; rank
0 does the rest alone.
"""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Iterator
from importlib import metadata

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn

from batchyard import models
from batchyard.artifact import writer
from batchyard.artifact.manifest import (
    ONNX_MODEL,
    SAMPLES,
    WEIGHTS,
    CertificateRecord,
    Evaluated,
    FoldEntry,
    Manifest,
    Signature,
)
from batchyard.data import Dataset
from batchyard.failpoints import failpoint
from batchyard.nn import Certificate, FoldedModel, certify, fold, population_statistics
from batchyard.training import graph
from batchyard.training.batches import ShardedBatches
from batchyard.training.context import StoppedError, WorkerContext
from batchyard.training.evaluate import evaluate
from batchyard.training.events import LogLine, Published, TrainingError
from batchyard.training.group import Group
from batchyard.training.loop import Parts
from batchyard.training.losses import loss_sum
from batchyard.training.oracle_cost import affordable
from batchyard.training.probe import probe_of

STATISTICS_SAMPLES = 10_000
"""Population statistics are taken over this many training samples, or one epoch: 1,000 to 10,000 are enough
(arXiv 2105.07576)."""
CERTIFICATE_SAMPLES = 512
"""Test samples, at most, on which the folded network must equal the unfolded one; see oracle_cost."""
LIBRARIES = ("batchyard", "torch", "onnx", "onnxscript", "onnxruntime", "numpy")


def publish(context: WorkerContext, group: Group, parts: Parts, dataset: Dataset) -> None:
    """Publishes the trained model to context.artifact_uri and emits Published. Every worker must call it.

    The model is left with the population statistics. Raises TrainingError, and publishes nothing, when the folded
    network cannot be certified.
    """
    spec, model = context.spec.publish, parts.model
    assert spec is not None
    moving = spec.statistics == "ema"  # those that training has gathered, as they are
    population_statistics(model, () if moving else _batches(parts.batches), spec.statistics, group.process_group)
    score = evaluate(model, parts.test, group, loss_sum(context.spec.loss))
    if group.rank != 0:
        return
    text = f"with {spec.statistics} statistics: accuracy {score.accuracy:.2%} on {score.samples} test samples"
    context.emit(LogLine(level="INFO", text=text, rank=0))
    if context.stop_requested():
        raise StoppedError("stopped before the model was published")
    evaluated = Evaluated(accuracy=score.accuracy, loss=score.loss, samples=score.samples)
    digest = _write(context, model.cpu().eval(), dataset, evaluated)
    failpoint("publish.before_report")
    context.emit(Published(artifact_uri=context.artifact_uri, manifest_sha256=digest))


def _batches(batches: ShardedBatches) -> Iterator[torch.Tensor]:
    """Yields this worker's share of mini-batches of the training size: those of the order's first steps."""
    wanted = -(-STATISTICS_SAMPLES // batches.order.batch_size)
    for step in range(1, min(wanted, batches.order.batches_per_epoch) + 1):
        yield batches.shard(step)[0]


def _write(context: WorkerContext, model: nn.Module, dataset: Dataset, evaluated: Evaluated) -> str:
    """Folds and certifies `model`, writes the artifact, and returns the manifest's sha256."""
    pixels = torch.tensor(dataset.test.spread(CERTIFICATE_SAMPLES)).float()
    failpoint("publish.before_fold")
    folded = fold(model, (pixels[:2],))
    pixels = affordable(folded.module, pixels)
    certificate = certify(folded, model, (pixels,))
    failpoint("publish.after_fold")
    served = graph.export(folded.module, pixels[:2])
    record = certified(certificate, graph.run(served, pixels.numpy()))
    text = f"folded and certified: off by {record.max_error:.2g} of {record.bound:.2g}, {record.samples} samples"
    context.emit(LogLine(level="INFO", text=text, rank=0))
    samples = {"inputs": pixels.numpy(), "outputs": certificate.expected.numpy()}
    files = {ONNX_MODEL: served, WEIGHTS: _weights(context, model), SAMPLES: safetensors.numpy.save(samples)}
    probe, probe_files = probe_of(folded, model, pixels[:2])
    manifest = _manifest(context, model, dataset, evaluated, fold_entries(folded), record)
    manifest, files = dataclasses.replace(manifest, probe=probe), {**files, **probe_files}
    failpoint("publish.before_artifact")
    return writer.write(context.artifact_uri, manifest, files)


def certified(certificate: Certificate, served: NDArray[np.float32]) -> CertificateRecord:
    """The certificate for the manifest, its error the larger of the folded network's and the served graph's.

    Args:
        certificate: what certify found, `expected` [samples, classes] included.
        served: the served graph's logits for the same samples.

    Raises TrainingError when the folded network, or its graph, does not equal the unfolded network.
    """
    expected = certificate.expected.numpy()
    error = float(np.max([certificate.max_error, np.abs(served - expected).max()]))  # NaN stays NaN
    differing = int((served.argmax(1) != expected.argmax(1)).sum())
    reasons = list(certificate.reasons)
    if not error <= certificate.bound:
        reasons.append(f"the served graph's largest error is {error:g}; at most {certificate.bound:g} is allowed")
    if differing:
        reasons.append(f"the served graph puts {differing} of {len(served)} samples into another class")
    if reasons or not certificate.passed:
        cause = f"the folded network does not equal the unfolded one: {'; '.join(reasons)}"
        raise TrainingError(cause, "nothing was published; train longer or with a lower optimizer.learning_rate")
    return CertificateRecord(
        passed=True, max_error=error, bound=certificate.bound, samples=len(served), digest=certificate.digest
    )


def fold_entries(folded: FoldedModel) -> tuple[FoldEntry, ...]:
    """The fold report with each normalisation layer's beta and gamma: what serving compares live data with."""
    return tuple(
        FoldEntry(
            layer=entry.name,
            status=entry.status,
            into=entry.into,
            reason=entry.reason,
            beta=_values(entry.beta),
            gamma=_values(entry.gamma),
        )
        for entry in folded.report
    )


def _values(channels: torch.Tensor | None) -> tuple[float, ...]:
    return () if channels is None else tuple(channels.detach().double().tolist())


def _weights(context: WorkerContext, model: nn.Module) -> bytes:
    """The unfolded network's state; copies, because parameters share one piece of memory."""
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    origin = {"initial_weights": models.initial_weights(context.spec.model.architecture)}
    return safetensors.torch.save(state, metadata=origin)


def _manifest(
    context: WorkerContext,
    model: nn.Module,
    dataset: Dataset,
    evaluated: Evaluated,
    fold_report: tuple[FoldEntry, ...],
    certificate: CertificateRecord,
) -> Manifest:
    spec, publish = context.spec, context.spec.publish
    assert publish is not None
    classes = dataset.classes
    return Manifest(
        model=publish.model,
        job=context.job,
        attempt=context.attempt,
        created=time.time(),
        spec=spec.to_mapping(),
        seed=spec.seed,
        libraries={"python": platform.python_version(), **{name: metadata.version(name) for name in LIBRARIES}},
        dataset=dataset.name,
        dataset_sha256=dataset.sha256,
        classes=classes,
        parameter_count=sum(parameter.numel() for parameter in model.parameters()),
        inputs=(Signature(name=graph.INPUT, datatype="FP32", shape=(-1, *dataset.image_shape)),),
        outputs=(Signature(name=graph.OUTPUT, datatype="FP32", shape=(-1, len(classes))),),
        population_statistics=publish.statistics,
        fold_report=fold_report,
        certificate=certificate,
        evaluated=evaluated,
    )
