"""The training loop. Every host sync is marked: between metric points the host only queues work and never waits."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from batchyard.training.batches import Samples, ShardedBatches
from batchyard.training.checkpoint_state import state_of
from batchyard.training.checkpoint_writer import Writer
from batchyard.training.checkpointing import Checkpoints
from batchyard.training.context import StoppedError, WorkerContext
from batchyard.training.evaluate import evaluate, share_running_statistics
from batchyard.training.events import Evaluation, LogLine
from batchyard.training.flat import FlatParameters
from batchyard.training.forward import forward_of, lay_out, warm_up
from batchyard.training.group import Group
from batchyard.training.losses import loss_sum
from batchyard.training.meter import Meter, diverged
from batchyard.training.update import Update
from batchyard.training.watch import Watch


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
    lay_out(spec, model)
    parameters = FlatParameters(model)
    steps = spec.total_steps(parts.batches.order.batches_per_epoch)
    meter, update = Meter(spec, group, steps), Update(spec, model, parameters, steps)
    shared, own = state_of(model, spec, group, meter, update=update)
    checkpoints = Checkpoints(context, group, writer, shared, {**own, **update.own})
    emit = context.emit if group.rank == 0 else lambda event: None
    watch = Watch(spec, model, group, emit, steps)
    forward = forward_of(spec, model, lambda: watch.measuring)
    loss_of = loss_sum(spec.loss, spec.label_smoothing)
    share = parameters.values.new_ones(()) / spec.data.batch_size
    votes_are_free = group.device.type == "cpu"

    first = checkpoints.resume() + 1
    if spec.compile:
        watch.begin_step(first, at_point=False)
        with meter.paused():
            seconds = warm_up(forward, loss_of, model, parts.batches.micro_batches(first), group.device)
        emit(LogLine(level="INFO", text=f"compiled in {seconds:.1f} s, which samples/s leaves out", rank=0))

    for step in range(first, steps + 1):
        last = step == steps
        at_point = step == 1 or last or step % spec.metrics.every_steps == 0
        tell = watch.begin_step(step, at_point=at_point)
        parameters.begin_step(stop=context.stop_requested(), pause=context.pause_requested(), tell=tell)
        meter.clock.begin_step(step, at_point=at_point)
        for images, labels in parts.batches.micro_batches(step):  # host sync at the first step of an epoch
            meter.clock.lap("data")
            logits = forward(images)
            loss = loss_of(logits, labels)
            meter.clock.lap("forward")
            update.backward(loss, share)
            meter.add(loss, logits, labels)
            meter.clock.lap("backward")
        group.sum_(parameters.summands)
        meter.clock.lap("collectives")
        update.apply(step)
        meter.clock.lap("optimizer")

        stop = pause = tell = False
        if votes_are_free or at_point:
            stop, pause, tell = parameters.votes()  # host sync on CUDA, at metric points only
        if stop:
            raise StoppedError(f"stopped after step {step}")
        if at_point:
            metrics = meter.read(step, update.learning_rate)  # host sync
            if not metrics.finite:
                watch.tell()
                raise diverged(metrics)
            emit(metrics)
            watch.end_point(step)
        if tell:
            with meter.paused():
                watch.tell()  # host sync
        accuracy = None
        if last or (spec.evaluate.every_steps and step % spec.evaluate.every_steps == 0):
            with meter.paused(), update.averaged():
                if spec.workers.sync_batch_norm == "none":
                    share_running_statistics(model, group)
                score = evaluate(model, parts.test, group, loss_sum(spec.loss))  # host sync
            accuracy = score.accuracy
            emit(Evaluation(step=step, loss=score.loss, accuracy=score.accuracy, samples=score.samples))
            if spec.stop_at is not None and score.accuracy >= spec.stop_at.accuracy and not last:
                if not at_point:
                    emit(meter.read(step, update.learning_rate))  # host sync
                emit(_target_reached(step, steps, score.accuracy))
                break
        if pause and not last:
            watch.tell()
            checkpoints.pause(step, accuracy)  # host sync
        if checkpoints.due(step):
            with meter.paused():
                watch.tell()
                checkpoints.save(step, accuracy)  # host sync

    update.finish()
    watch.finish()


def _target_reached(step: int, steps: int, accuracy: float) -> LogLine:
    text = f"training ends after step {step} of {steps}: held-out accuracy {accuracy:.2%} has reached stop_at.accuracy"
    return LogLine(level="INFO", text=text, rank=0)
