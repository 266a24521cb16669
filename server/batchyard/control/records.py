"""What the control plane keeps, as frozen dataclasses: what the store returns and the edges convert."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from batchyard.artifact.manifest import Manifest
from batchyard.control.states import TERMINAL, State
from batchyard.training.events import Event


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a job failed."""

    failure_class: str
    """user, infrastructure or preempted: who can mend it."""
    cause: str
    next_step: str


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where an attempt stands; numbers that are not finite are left out."""

    phase: str | None = None
    """loading, training or publishing."""
    step: int = 0
    steps: int = 0
    loss: float | None = None
    accuracy: float | None = None
    evaluation_accuracy: float | None = None
    samples_per_second: float | None = None
    first_step: int | None = None
    """The step of the attempt's first metric point, and when it came: they give the attempt's own speed."""
    first_time: float | None = None
    last_time: float | None = None
    checkpoint_step: int | None = None
    """The step of the newest checkpoint."""

    def remaining(self) -> float | None:
        """Seconds of training left at this attempt's mean speed; None while fewer than two points are known, or where
        the workers' clock was set back between them.
        """
        if self.first_step is None or self.first_time is None or self.last_time is None or self.step <= self.first_step:
            return None
        if self.last_time <= self.first_time:
            return None
        seconds = (self.last_time - self.first_time) / (self.step - self.first_step) * (self.steps - self.step)
        return max(0.0, seconds) if math.isfinite(seconds) else None


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training job."""

    number: int
    """Order of creation."""
    id: str
    user: str = ""
    """Who created it, as the client said; empty where nobody was named."""
    spec: Mapping[str, Any]
    """TrainingJobSpec.to_mapping(): checked when the job was created, every default filled in."""
    state: State
    failure: Failure | None = None
    progress: Progress | None = None
    attempt: int = 0
    model_version: str | None = None
    """models/{model}/versions/{n}"""
    create_time: float
    """All times in seconds since the epoch."""
    start_time: float | None = None
    first_step_time: float | None = None
    end_time: float | None = None
    last_event: int = 0
    """Sequence number of the newest stored event: events are 1, 2, 3, ... without gaps."""
    tags: tuple[str, ...] = ()
    """What people find it by, in the order of the alphabet."""
    note: str = ""
    """What people have written about it."""

    @property
    def ended(self) -> bool:
        """Whether the state is final."""
        return self.state in TERMINAL


@dataclass(frozen=True, kw_only=True)
class StateChange(Event):
    """The job's state has changed; stored in the same log as what workers report, so that the order is total."""

    kind: ClassVar[str] = "state_change"
    state: State
    failure: Failure | None = None
    model_version: str | None = None


@dataclass(frozen=True, kw_only=True)
class StoredEvent:
    """One event of a job's log."""

    sequence: int
    cursor: str
    """Opaque; marks the place after this event."""
    attempt: int
    event: Event


@dataclass(frozen=True, kw_only=True)
class AttemptSummary:
    """One try at a job, for people."""

    number: int
    start_time: float
    end_time: float | None
    outcome: str | None
    """succeeded, failed, cancelled or paused; None while it runs."""
    failure_class: str | None
    resumed_step: int | None
    """The step that it went on from; 0: the beginning; None: not known yet, or the first attempt."""
    preempted_by: str | None = None
    """The id of the job that it gave way to."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a job can go on from."""

    step: int
    uri: str
    sha256: str
    """Of its manifest."""
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Model:
    """A named line of versions."""

    name: str
    create_time: float
    latest_version: int
    aliases: Mapping[str, int] = field(default_factory=dict)
    serving_settings: Mapping[str, Any] = field(default_factory=dict)
    """The fields of ServingSettings that are set: checked when they were."""


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """One published network. Never changes."""

    model: str
    number: int
    create_time: float
    job: str
    """The id of the job that published it."""
    artifact_uri: str
    manifest_sha256: str
    manifest: Manifest
    """Without the probe and the fold report's beta and gamma, which only the inference plane needs."""


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model and those of its versions that should be served: the latest and every one that an alias names."""

    model: Model
    versions: tuple[ModelVersion, ...]
    """By number."""
