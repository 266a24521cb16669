"""Publishing: population statistics, fold, certificate, graph, artifact. All workers take part in the first step; rank
0 does the rest alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from batchyard import models
from batchyard.artifact.manifest import Evaluated
from batchyard.data import Dataset
from batchyard.failpoints import failpoint
from batchyard.nn import population_statistics
from batchyard.training.batches import ShardedBatches
from batchyard.training.context import StoppedError, WorkerContext
from batchyard.training.evaluate import evaluate
from batchyard.training.events import LogLine, Published
from batchyard.training.group import Group
from batchyard.training.loop import Parts
from batchyard.training.losses import loss_sum
from batchyard.training.packaging import About, package

STATISTICS_SAMPLES = 10_000
"""Population statistics are taken over this many training samples, or one epoch: 1,000 to 10,000 are enough
(arXiv 2105.07576)."""
CERTIFICATE_SAMPLES = 512
"""Test samples, at most, on which the folded network must equal the unfolded one; see oracle_cost."""


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
    digest, manifest = package(context.artifact_uri, model, pixels, _about(context, dataset, evaluated))
    record = manifest.certificate
    text = f"folded and certified: off by {record.max_error:.2g} of {record.bound:.2g}, {record.samples} samples"
    context.emit(LogLine(level="INFO", text=text, rank=0))
    return digest


def _about(context: WorkerContext, dataset: Dataset, evaluated: Evaluated) -> About:
    spec, publish = context.spec, context.spec.publish
    assert publish is not None
    return About(
        model=publish.model,
        job=context.job,
        attempt=context.attempt,
        spec=spec.to_mapping(),
        seed=spec.seed,
        dataset=dataset.name,
        dataset_sha256=dataset.sha256,
        classes=dataset.classes,
        origin="trained",
        certificate_samples="dataset",
        population_statistics=publish.statistics,
        evaluated=evaluated,
        weights_metadata={"initial_weights": models.initial_weights(spec.model.architecture)},
    )
