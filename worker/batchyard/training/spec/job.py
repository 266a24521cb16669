"""A whole training job: its keys, and what they must be together."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from batchyard.training.spec import combinations, mapping
from batchyard.training.spec.checks import Checks, SpecError, Violation
from batchyard.training.spec.network import DataSpec, ModelSpec
from batchyard.training.spec.optimization import LOSSES, PRECISIONS, OptimizerSpec, ScheduleSpec, StopAtSpec
from batchyard.training.spec.running import CheckpointSpec, EvaluateSpec, MetricsSpec, PublishSpec, WorkersSpec


@dataclass(frozen=True, kw_only=True)
class TrainingJobSpec:
    """A whole training job."""

    name: str
    """A short name for people; the job's id starts with it."""
    model: ModelSpec
    data: DataSpec
    steps: int | None = None
    """Optimiser steps (global batches) to train for; 1 or more."""
    epochs: int | None = None
    """Passes over the training data, instead of steps; 1 or more."""
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    loss: str = "cross_entropy"
    """One of LOSSES; mse is the mean squared difference between the outputs and the class as one-hot."""
    label_smoothing: float = 0.0
    """cross_entropy only: this share of each target, in [0, 1), is spread over all classes (arXiv 1512.00567)."""
    precision: str = "fp32"
    """One of PRECISIONS: what the network computes in; weights, statistics and sums stay fp32. fp16 needs GPUs."""
    channels_last: bool = False
    """Lay images out as height, width, channels: faster convolutions on many devices. Not for mlp."""
    compile: bool = False
    """Compile the network with torch.compile: slower to start, faster to run. Steps whose activation statistics are
    reported run uncompiled. With one worker only."""
    accumulate: int = 1
    """Micro-batches that a worker's share of each batch is cut into, to save memory. The gradient stays the mean over
    the global batch; batch normalisation sees one micro-batch (of all workers) at a time."""
    clip_norm: float | None = None
    """The gradient of all weights together is scaled down to this norm where it is longer; above 0."""
    ema_decay: float | None = None
    """Average the weights over steps with this decay, above 0 and below 1; the average is evaluated and published."""
    stop_at: StopAtSpec | None = None
    workers: WorkersSpec = field(default_factory=WorkersSpec)
    evaluate: EvaluateSpec = field(default_factory=EvaluateSpec)
    metrics: MetricsSpec = field(default_factory=MetricsSpec)
    checkpoint: CheckpointSpec = field(default_factory=CheckpointSpec)
    publish: PublishSpec | None = None
    """None: the trained network is evaluated and not published."""
    seed: int = 0
    """Seeds initial weights and data order; the same spec gives the same weights."""
    deterministic: bool = False
    """On GPUs, use only kernels whose results are the same bits each time. On CPUs they always are."""
    retries: int = 3
    """How often the job is started again, from its latest checkpoint, after a failure that is not its own."""
    priority: int = 0
    """Waiting jobs of higher priority start first, of the same priority older ones; from -1000 to 1000. Where there is
    no room, running jobs of lower priority give way."""
    preemptible: bool = True
    """Whether the job gives way to one of higher priority: it writes a checkpoint, waits for room, and goes on with the
    same bits. That is no failure: it costs none of its retries."""

    def __post_init__(self) -> None:
        checks = Checks()
        _check_top(checks, self.name, self.steps, self.epochs, self.seed)
        checks.one_of("loss", self.loss, LOSSES)
        checks.below_one("label_smoothing", self.label_smoothing)
        checks.one_of("precision", self.precision, PRECISIONS)
        checks.integer("accumulate", self.accumulate, 1, 65536)
        if self.clip_norm is not None:
            checks.above_zero("clip_norm", self.clip_norm)
        if self.ema_decay is not None:
            checks.require(0 < self.ema_decay < 1, "ema_decay", self.ema_decay, "a number above 0 and below 1")
        checks.integer("retries", self.retries, 0, 100)
        checks.integer("priority", self.priority, -1000, 1000)
        combinations.check(checks, self)
        checks.finish()

    def total_steps(self, batches_per_epoch: int) -> int:
        """Optimiser steps to train for, on data with so many global batches in an epoch."""
        return self.steps if self.steps is not None else typing.cast(int, self.epochs) * batches_per_epoch

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> Self:
        """Reads the nested mapping of a job file. Raises SpecError listing every violation found."""
        violations: list[Violation] = []
        spec = mapping.build(cls, given, "", violations)
        if violations:
            raise SpecError([*violations, *_overlooked(given, {v.field for v in violations})])
        return typing.cast(Self, spec)

    def to_mapping(self) -> dict[str, Any]:
        """The nested mapping that `from_mapping` reads, with every default filled in; JSON-ready."""
        return typing.cast("dict[str, Any]", mapping.plain(self))


def _check_top(checks: Checks, name: str, steps: int | None, epochs: int | None, seed: int) -> None:
    """What stands at the top of a spec and depends on nothing below."""
    checks.name("name", name)
    checks.require(steps is None or epochs is None, "epochs", epochs, "either steps or epochs: leave one of them out")
    if steps is None and epochs is None:
        checks.violations.append(Violation("steps", "missing; give the number of steps, or of epochs"))
    for length, given in (("steps", steps), ("epochs", epochs)):
        if given is not None:
            checks.integer(length, given, 1)
    checks.integer("seed", seed, 0)


def _overlooked(given: object, named: set[str]) -> list[Violation]:
    """Violations at the top of a spec that could not be built because of what lies deeper."""
    if not isinstance(given, Mapping):
        return []
    fitting: dict[str, Any] = {"name": "a", "steps": None, "epochs": None, "seed": 0}
    stand_ins = {
        "name": "a",
        "steps": 1,
        "epochs": 1,
        "seed": 0,
    }  # a value of a wrong type is told elsewhere
    for key, legal in stand_ins.items():
        if given.get(key) is not None:
            fitting[key] = given[key] if type(given[key]) is type(legal) else legal
    checks = Checks()
    _check_top(checks, **fitting)
    return [violation for violation in checks.violations if violation.field not in named]
