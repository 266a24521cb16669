"""What a training job reports, as plain dataclasses with a JSON form. Standard library only.

The workers emit them, the executor carries them as JSON in order, the control plane stores and streams them. `time` is
seconds since the epoch on the machine that emitted the event.
"""

from __future__ import annotations

import dataclasses
import math
import time as clock
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened in a job."""

    kind: ClassVar[str]
    time: float = field(default_factory=clock.time)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready mapping that `from_json` reads."""
        return {"kind": self.kind, **dataclasses.asdict(self)}


Emit = Callable[[Event], None]
"""Takes an event for delivery; returns at once."""


@dataclass(frozen=True, kw_only=True)
class PhaseChange(Event):
    """The workers have begun to do something else."""

    kind: ClassVar[str] = "phase_change"
    phase: str
    """loading, training or publishing."""


@dataclass(frozen=True, kw_only=True)
class StepMetrics(Event):
    """Means over the steps since the point before, over all workers."""

    kind: ClassVar[str] = "step_metrics"
    step: int
    """Optimiser steps done, counted from 1."""
    steps: int
    loss: float
    accuracy: float
    """Share in [0, 1] of training samples classified right."""
    learning_rate: float
    samples_per_second: float
    step_seconds: float
    data_seconds: float | None = None
    """Of one step, what rank 0 spends waiting for its batch; these five are means over the steps in between that were
    measured (step_clock.py), None where none was.
    """
    forward_seconds: float | None = None
    backward_seconds: float | None = None
    collectives_seconds: float | None = None
    """Adding up over all workers, and waiting for them."""
    optimizer_seconds: float | None = None

    @property
    def finite(self) -> bool:
        """Whether training has not diverged."""
        return math.isfinite(self.loss)


@dataclass(frozen=True, kw_only=True)
class Evaluation(Event):
    """A measurement on held-out data."""

    kind: ClassVar[str] = "evaluation"
    step: int
    loss: float
    accuracy: float
    samples: int


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Activation statistics of one layer; the fields are those of the API's LayerStatistics.Layer."""

    name: str
    p15: float
    p50: float
    p85: float
    saturated: float
    dead: float
    drift: float | None = None
    worker_spread: float | None = None
    smallest_batch: int | None = None
    skipped: int = 0
    bias_norm: float | None = None


@dataclass(frozen=True, kw_only=True)
class LayerStatistics(Event):
    """Activation statistics at one step."""

    kind: ClassVar[str] = "layer_statistics"
    step: int
    layers: tuple[Layer, ...]


@dataclass(frozen=True, kw_only=True)
class LogLine(Event):
    """A line for people."""

    kind: ClassVar[str] = "log_line"
    level: str
    """DEBUG, INFO, WARNING or ERROR."""
    text: str
    rank: int | None = None
    """None: the supervisor."""


@dataclass(frozen=True, kw_only=True)
class Published(Event):
    """The artifact is whole and in place; the registry row comes next."""

    kind: ClassVar[str] = "published"
    artifact_uri: str
    manifest_sha256: str


@dataclass(frozen=True, kw_only=True)
class Checkpointed(Event):
    """A checkpoint is durable. Everything that was reported of its step and those before it was reported earlier."""

    kind: ClassVar[str] = "checkpointed"
    step: int
    """Optimiser steps done."""
    uri: str
    sha256: str
    """Of its manifest, which holds the digests of its files."""
    bytes: int
    tensors_sha256: str = ""
    """Of its tensors alone; empty for one that was written before this was told."""


@dataclass(frozen=True, kw_only=True)
class Resumed(Event):
    """An attempt goes on where an earlier one was at `step`; what was reported of later steps is void."""

    kind: ClassVar[str] = "resumed"
    step: int
    """0: from the beginning."""
    uri: str = ""
    """The checkpoint; empty at step 0."""


@dataclass(frozen=True, kw_only=True)
class Ended(Event):
    """The last event of an attempt."""

    kind: ClassVar[str] = "ended"
    outcome: str
    """succeeded, failed, cancelled or paused."""
    failure_class: str | None = None
    """failed only: user or infrastructure."""
    cause: str | None = None
    next_step: str | None = None


KINDS: dict[str, type[Event]] = {
    kind.kind: kind
    for kind in (
        *(PhaseChange, StepMetrics, Evaluation, LayerStatistics, LogLine),
        *(Checkpointed, Resumed, Published, Ended),
    )
}


def from_json(mapping: Mapping[str, Any]) -> Event:
    """The event that `Event.to_json` wrote. Raises KeyError for an unknown kind, TypeError for wrong fields."""
    values = dict(mapping)
    kind = KINDS[values.pop("kind")]
    if kind is LayerStatistics:
        values["layers"] = tuple(Layer(**layer) for layer in values["layers"])
    return kind(**values)


class TrainingError(Exception):
    """A job cannot go on, for a reason that a person can mend; becomes Ended(outcome="failed", failure_class="user").

    Args:
        cause: the thing, what was given, what was expected.
        next_step: what to do or run next.
    """

    def __init__(self, cause: str, next_step: str) -> None:
        super().__init__(cause)
        self.cause = cause
        self.next_step = next_step
