"""What a training job is: every key, its default and the rules for its values. Standard library only.

`TrainingJobSpec.from_mapping` reads the nested mapping of a job file (or of the API's message) and raises one
SpecError that lists everything wrong with it. A constructed spec is legal by itself; whether a cluster can run it, or
a data file can be read, shows later.
"""

from batchyard.training.spec.checks import NAME_RULE, SpecError, Violation
from batchyard.training.spec.job import TrainingJobSpec
from batchyard.training.spec.network import (
    ACTIVATIONS,
    ARCHITECTURES,
    CACHES,
    DATASETS,
    NORMS,
    ON_ERROR,
    SHUFFLES,
    STEMS,
    WHITENING,
    AugmentSpec,
    DataSpec,
    ModelSpec,
)
from batchyard.training.spec.optimization import (
    LOSSES,
    OPTIMIZERS,
    PRECISIONS,
    SCHEDULES,
    OptimizerSpec,
    ScheduleSpec,
    StopAtSpec,
)
from batchyard.training.spec.running import (
    STATISTICS,
    SYNC_BATCH_NORM,
    CheckpointSpec,
    EvaluateSpec,
    MetricsSpec,
    PublishSpec,
    WorkersSpec,
)

__all__ = [
    "ACTIVATIONS",
    "ARCHITECTURES",
    "CACHES",
    "DATASETS",
    "LOSSES",
    "NAME_RULE",
    "NORMS",
    "ON_ERROR",
    "OPTIMIZERS",
    "PRECISIONS",
    "SCHEDULES",
    "SHUFFLES",
    "STATISTICS",
    "STEMS",
    "SYNC_BATCH_NORM",
    "WHITENING",
    "AugmentSpec",
    "CheckpointSpec",
    "DataSpec",
    "EvaluateSpec",
    "MetricsSpec",
    "ModelSpec",
    "OptimizerSpec",
    "PublishSpec",
    "ScheduleSpec",
    "SpecError",
    "StopAtSpec",
    "TrainingJobSpec",
    "Violation",
    "WorkersSpec",
]
