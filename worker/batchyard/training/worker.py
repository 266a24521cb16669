"""One worker of an attempt, from its data to the published model."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from batchyard import models
from batchyard.artifact.errors import ArtifactError
from batchyard.data import DataError, Dataset
from batchyard.models import ModelError
from batchyard.nn import InputNormalization, convert_sync_batchnorm
from batchyard.training import loading
from batchyard.training.context import StoppedError, WorkerContext
from batchyard.training.events import Event, LogLine, PhaseChange, TrainingError
from batchyard.training.group import Group, joined
from batchyard.training.loop import Parts, train
from batchyard.training.publish import publish
from batchyard.training.spec import TrainingJobSpec


def run(context: WorkerContext) -> None:
    """Runs one worker to its end: loads data, joins the others, trains, evaluates and publishes.

    Raises TrainingError for what the user can mend, StoppedError when asked to stop; anything else is a failure of the
    infrastructure.
    """
    try:
        _run(context)
    except DataError as error:
        raise TrainingError(error.cause, error.next_step) from error
    except ModelError as error:
        raise TrainingError(str(error), "change model.architecture or data.dataset") from error
    except ArtifactError as error:
        if error.passing:
            raise  # the infrastructure's: tried again from the newest checkpoint
        raise TrainingError(str(error), "make the artifact folder writable and submit again") from error
    except RuntimeError as error:
        if context.spec.deterministic and "deterministic" in str(error):
            cause = f"deterministic: true given; the network needs an operation that is not: {error}"
            raise TrainingError(cause, "set deterministic to false, or choose another model.architecture") from error
        # A peer that was asked to stop a moment earlier closes its connections; that is no failure.
        if context.stop_requested():
            raise StoppedError("stopped together with the other workers") from error
        raise


def _run(context: WorkerContext) -> None:
    _report(context, PhaseChange(phase="loading"))
    dataset = loading.load(context)
    with joined(context) as group:
        parts = prepare(context, group, dataset)
        _report(context, PhaseChange(phase="training"))
        train(context, group, parts)
        if context.spec.publish is not None:
            _report(context, PhaseChange(phase="publishing"))
            publish(context, group, parts, dataset)


def prepare(context: WorkerContext, group: Group, dataset: Dataset) -> Parts:
    """What the loop works with, on the worker's device. Raises DataError, ModelError."""
    spec = context.spec
    loading.require_same_data(dataset, group)
    batches = loading.batches_of(spec, dataset, group)
    model = build_model(spec, dataset).to(group.device)
    _fit(model, dataset, group)
    synced = spec.workers.sync_batch_norm == "world"
    convert_sync_batchnorm(model, group.process_group if synced else group.alone(), ghost_size=spec.model.ghost_size)
    _describe(context, group, model, dataset)
    return Parts(model=model, batches=batches, test=loading.samples_of(spec, dataset.test, group))


def build_model(spec: TrainingJobSpec, dataset: Dataset) -> nn.Sequential:
    """The whole model, raw pixels to logits: input normalisation, then the network. Raises ModelError."""
    plan = models.Plan(
        image_shape=dataset.image_shape,
        classes=len(dataset.classes),
        hidden=spec.model.hidden,
        activation=spec.model.activation,
        norm=spec.model.norm,
        width=spec.model.width,
        stem=spec.model.stem,
    )
    network = models.build(spec.model.architecture, plan, seed=spec.seed)
    layers: OrderedDict[str, nn.Module] = OrderedDict(input=InputNormalization(dataset.mean, dataset.std))
    layers.update(network.named_children())
    return nn.Sequential(layers)


def _fit(model: nn.Sequential, dataset: Dataset, group: Group) -> None:
    """Layers whose weights come from data get them from training samples, on every worker the same."""
    layers = models.layers_from_data(model)
    if not layers:
        return
    with torch.no_grad():
        images = model[0](torch.tensor(dataset.train.spread(models.FIT_SAMPLES), device=group.device).float())
        for layer in layers:
            layer.fit(images)
            # Workers on unlike machines may find eigenvectors of another sign: all take those of rank 0.
            group.sum_(layer.weight.mul_(group.rank == 0))


def _describe(context: WorkerContext, group: Group, model: nn.Module, dataset: Dataset) -> None:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    architecture = context.spec.model.architecture
    network = f"{architecture}: {parameters:,} parameters, initial weights {models.initial_weights(architecture)}"
    samples = f"{dataset.name}: {len(dataset.train):,} training and {len(dataset.test):,} test samples"
    texts = [network, samples]
    if group.world_size > 1:
        texts.append(f"{group.world_size} workers add up through {group.way}")
    _report(context, *(LogLine(level="INFO", text=text, rank=0) for text in texts))


def _report(context: WorkerContext, *events: Event) -> None:
    """Emits from rank 0: the others have nothing to add."""
    for event in events if context.rank == 0 else ():
        context.emit(event)
