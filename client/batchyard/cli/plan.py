"""What a job that was just accepted will do, and the commands that come next: for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchyard.client import TrainingJob


def plan(job: TrainingJob) -> list[str]:
    """Lines: what was accepted, its plan, the next commands."""
    identity = job.name.removeprefix("trainingJobs/")
    commands = (("Follow it:", "watch"), ("Why it waits:", "explain"), ("Stop it:", "cancel"))
    return [
        f"{identity} is queued: {_work(job)}",
        *(f"  {part}" for part in (_course(job), _result(job)) if part),
        *(f"  {words:<14}batchyard job {command} {identity}" for words, command in commands),
    ]


def _work(job: TrainingJob) -> str:
    """The network, the data, how long and on how many workers."""
    spec = job.spec
    length = f"{spec.steps:,} steps" if spec.steps else f"{spec.epochs:,} epochs"
    size = f" of {spec.data.batch_size:,} samples" if spec.data.batch_size else ""
    count = spec.workers.count or 1
    gpus = f" with {spec.workers.gpus_per_worker:g} GPUs each" if spec.workers.gpus_per_worker else ""
    return f"{spec.model.architecture or 'a network'} on {spec.data.dataset}, {length}{size}, " + (
        f"{count} workers{gpus}" if count > 1 else f"1 worker{gpus}"
    )


def _course(job: TrainingJob) -> str:
    """When it is evaluated and written down."""
    spec = job.spec
    parts = [
        f"{what} every {every:,} steps"
        for what, every in (("evaluated", spec.evaluate.every_steps), ("checkpoints", spec.checkpoint.every_steps))
        if every
    ]
    return ", ".join(parts)


def _result(job: TrainingJob) -> str:
    """What it publishes."""
    spec = job.spec
    if not spec.HasField("publish"):
        return "publishes nothing"
    alias = f", which the alias {spec.publish.alias} moves to" if spec.publish.alias else ""
    return f"publishes a version of {spec.publish.model or spec.name}{alias}"
