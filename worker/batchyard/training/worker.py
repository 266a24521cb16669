"""One worker of an attempt, from its data to the published model."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from batchyard import data, models
from batchyard.artifact.errors import ArtifactError
from batchyard.data import DataError, Dataset, Order
from batchyard.models import ModelError
from batchyard.nn import InputNormalization, convert_sync_batchnorm
from batchyard.training.batches import Samples, ShardedBatches
from batchyard.training.context import StoppedError, WorkerContext
from batchyard.training.events import LogLine, PhaseChange, TrainingError
from batchyard.training.group import joined
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
        raise TrainingError(str(error), "make the artifact folder writable and submit again") from error
    except RuntimeError as error:
        # A peer that was asked to stop a moment earlier closes its connections; that is no failure.
        if context.stop_requested():
            raise StoppedError("stopped together with the other workers") from error
        raise


def _run(context: WorkerContext) -> None:
    spec = context.spec
    _phase(context, "loading")
    dataset = data.load(spec.data.dataset, context.data_folders)
    order = Order(seed=spec.seed, samples=len(dataset.train), batch_size=spec.data.batch_size)
    with joined(context) as group:
        model = build_model(context.spec, dataset).to(group.device)
        if context.spec.workers.sync_batch_norm == "none":
            convert_sync_batchnorm(model, group.alone())
        _describe(context, model, dataset)
        batches = ShardedBatches(Samples(dataset.train, group.device), order, group)
        test = Samples(dataset.test, group.device)
        _phase(context, "training")
        train(context, group, Parts(model=model, batches=batches, test=test))
        if spec.publish is not None:
            _phase(context, "publishing")
            publish(context, group, model, batches, test, dataset)


def build_model(spec: TrainingJobSpec, dataset: Dataset) -> nn.Sequential:
    """The whole model, raw pixels to logits: input normalisation, then the network. Raises ModelError."""
    plan = models.Plan(
        image_shape=dataset.image_shape,
        classes=len(dataset.classes),
        hidden=spec.model.hidden,
        activation=spec.model.activation,
        norm=spec.model.norm,
    )
    network = models.build(spec.model.architecture, plan, seed=spec.seed)
    layers: OrderedDict[str, nn.Module] = OrderedDict(input=InputNormalization(dataset.mean, dataset.std))
    layers.update(network.named_children())
    return nn.Sequential(layers)


def _describe(context: WorkerContext, model: nn.Module, dataset: Dataset) -> None:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    architecture = context.spec.model.architecture
    _log(context, f"{architecture}: {parameters:,} parameters, initial weights N(0, {models.INITIAL_STD}^2)")
    _log(context, f"{dataset.name}: {len(dataset.train):,} training and {len(dataset.test):,} test samples")


def _phase(context: WorkerContext, phase: str) -> None:
    if context.rank == 0:
        context.emit(PhaseChange(phase=phase))


def _log(context: WorkerContext, text: str) -> None:
    if context.rank == 0:
        context.emit(LogLine(level="INFO", text=text, rank=0))
