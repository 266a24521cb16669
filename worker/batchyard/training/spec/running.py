"""Where a job runs, what it reports and keeps."""

from __future__ import annotations

from dataclasses import dataclass

from batchyard.training.spec.checks import Checks

SYNC_BATCH_NORM = ("world", "none")
PLACEMENTS = ("pack", "spread")
STATISTICS = ("alg2", "population", "cumulative", "ema")


@dataclass(frozen=True, kw_only=True)
class WorkersSpec:
    """Where the job runs."""

    count: int = 1
    """Worker processes."""
    gpus_per_worker: int = 0
    """GPUs reserved for each worker; 0 trains on the CPU over gloo."""
    sync_batch_norm: str = "world"
    """world: batch statistics over all workers; none: each worker normalises by its own shard."""
    hung_after_seconds: float = 600.0
    """Seconds without a sign of life from any worker (a step, an event, a printed line) after which all are ended and
    the job is tried again; 0: never. Loading, compiling, an evaluation and publishing count as one step each."""
    placement: str = "pack"
    """Where a cluster has several nodes. pack: on as few as can be, all on one where they fit, and there they add up
    through shared memory; spread: on as many as can be, and each has more memory and disk for itself."""

    def __post_init__(self) -> None:
        checks = Checks()
        checks.integer("count", self.count, 1, 4096)
        checks.integer("gpus_per_worker", self.gpus_per_worker, 0, 1)
        checks.one_of("sync_batch_norm", self.sync_batch_norm, SYNC_BATCH_NORM)
        checks.not_negative("hung_after_seconds", self.hung_after_seconds)
        checks.one_of("placement", self.placement, PLACEMENTS)
        checks.finish()


@dataclass(frozen=True, kw_only=True)
class EvaluateSpec:
    """When accuracy on held-out data is measured."""

    every_steps: int = 500
    """Steps between evaluations; 0: only after the last step."""

    def __post_init__(self) -> None:
        checks = Checks()
        checks.integer("every_steps", self.every_steps, 0)
        checks.finish()


@dataclass(frozen=True, kw_only=True)
class MetricsSpec:
    """When progress is reported."""

    every_steps: int = 20
    """Steps between metric points; the first and the last step are always reported."""
    activation_statistics: bool = True
    """Whether activation statistics of each layer are collected: at every metric point of the first 1,000 steps, then
    at one in each 100 steps."""

    def __post_init__(self) -> None:
        checks = Checks()
        checks.integer("every_steps", self.every_steps, 1)
        checks.finish()


@dataclass(frozen=True, kw_only=True)
class CheckpointSpec:
    """What is kept so that a job can go on where it was."""

    every_steps: int = 1000
    """Steps between checkpoints; 0: only when the job is paused."""
    keep: int = 3
    """How many checkpoints are kept, the latest ones."""
    keep_best: int = 0
    """How many are kept beside those: the ones of highest held-out accuracy, of steps with an evaluation."""

    def __post_init__(self) -> None:
        checks = Checks()
        checks.integer("every_steps", self.every_steps, 0)
        checks.integer("keep", self.keep, 1, 1000)
        checks.integer("keep_best", self.keep_best, 0, 1000)
        checks.finish()


@dataclass(frozen=True, kw_only=True)
class PublishSpec:
    """What becomes of the trained network."""

    model: str
    """The model that gets a new version."""
    statistics: str = "alg2"
    """One of STATISTICS; alg2 is Algorithm 2 of the paper."""
    alias: str | None = None
    """An alias to point at the new version."""

    def __post_init__(self) -> None:
        checks = Checks()
        checks.name("model", self.model)
        checks.one_of("statistics", self.statistics, STATISTICS)
        if self.alias is not None:
            checks.name("alias", self.alias)
        checks.finish()
