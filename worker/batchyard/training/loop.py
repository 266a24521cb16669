"""The training loop. Every host sync is marked: between metric points the host only queues work and never waits."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from batchyard.nn import ActivationStats
from batchyard.training.batches import Samples, ShardedBatches
from batchyard.training.checkpointing import Checkpoints, Writer, state_of
from batchyard.training.context import StoppedError, WorkerContext
from batchyard.training.evaluate import evaluate, share_running_statistics
from batchyard.training.events import Evaluation, Layer, LayerStatistics
from batchyard.training.flat import FlatParameters
from batchyard.training.group import Group
from batchyard.training.meter import Meter
from batchyard.training.sgd import SGD


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the loop works with, all on this worker's device."""

    model: nn.Module
    """Raw pixels to logits."""
    batches: ShardedBatches
    test: Samples


def train(context: WorkerContext, group: Group, parts: Parts) -> None:
    """Trains `parts.model` in place for as many global batches as the spec says, and reports from rank 0.

    The objective is the mean loss over the global batch, whatever the shares: each worker divides the sum over its own
    samples by the global size, and gradients add up. Raises TrainingError when the loss is not finite, StoppedError
    when any worker was asked to stop, PausedError when any was asked to pause and a checkpoint is written; every worker
    raises at the same step. An attempt that goes on from a checkpoint gives the same bits as one that never stopped.
    """
    with Writer(context) as writer:
        _train(context, group, parts, writer)


def _train(context: WorkerContext, group: Group, parts: Parts, writer: Writer) -> None:
    spec, model = context.spec, parts.model.train()
    parameters = FlatParameters(model)
    optimizer = SGD(parameters, spec.optimizer)
    statistics = ActivationStats(model) if spec.metrics.activation_statistics else None
    steps = spec.total_steps(parts.batches.order.batches_per_epoch)
    meter = Meter(spec, group, steps)
    checkpoints = Checkpoints(context, group, writer, *state_of(model, spec, group, meter, optimizer=optimizer))
    emit = context.emit if group.rank == 0 else lambda event: None
    votes_are_free = group.device.type == "cpu"

    for step in range(checkpoints.resume() + 1, steps + 1):
        last = step == steps
        at_point = step == 1 or last or step % spec.metrics.every_steps == 0
        if statistics is not None:
            statistics.enabled = at_point

        images, labels = parts.batches.shard(step)  # host sync at the first step of an epoch
        parameters.begin_step(stop=context.stop_requested(), pause=context.pause_requested())
        logits = model(images)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        torch.autograd.backward(loss / spec.data.batch_size)
        group.sum_(parameters.summands)
        optimizer.step()
        meter.add(loss, logits, labels)

        stop = pause = False
        if votes_are_free or at_point:
            stop, pause = parameters.votes()  # host sync on CUDA, at metric points only
        if stop:
            raise StoppedError(f"stopped after step {step}")
        if at_point:
            emit(meter.read(step))  # host sync
            if statistics is not None:
                with meter.paused():
                    emit(LayerStatistics(step=step, layers=layers(statistics, group)))  # host sync
        if last or (spec.evaluate.every_steps and step % spec.evaluate.every_steps == 0):
            with meter.paused():
                if spec.workers.sync_batch_norm == "none":
                    share_running_statistics(model, group)
                score = evaluate(model, parts.test, group)  # host sync
            emit(Evaluation(step=step, loss=score.loss, accuracy=score.accuracy, samples=score.samples))
        if pause and not last:
            checkpoints.pause(step)  # host sync
        if checkpoints.due(step):
            with meter.paused():
                checkpoints.save(step)  # host sync

    if statistics is not None:
        statistics.detach()


def layers(statistics: ActivationStats, group: Group) -> tuple[Layer, ...]:
    """What was measured since the last call, over all workers, as the event has it. Every worker must call it."""
    names = [field.name for field in dataclasses.fields(Layer)]
    return tuple(
        Layer(**{name: getattr(layer, name) for name in names}) for layer in statistics.collect(group.process_group)
    )
