"""What watch() yields: an event's place and time, and its detail as the API's own message."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from batchyard.v1.training_pb2 import (
    Checkpointed,
    Evaluation,
    EventKind,
    LayerStatistics,
    LogLine,
    PhaseChange,
    Resumed,
    StateChange,
    StepMetrics,
    TrainingJob,
    WatchTrainingJobResponse,
)

Detail = StateChange | PhaseChange | StepMetrics | Evaluation | LayerStatistics | LogLine | Checkpointed | Resumed

KINDS: dict[type[Detail], EventKind.ValueType] = {
    StateChange: EventKind.STATE_CHANGE,
    PhaseChange: EventKind.PHASE_CHANGE,
    StepMetrics: EventKind.STEP_METRICS,
    Evaluation: EventKind.EVALUATION,
    LayerStatistics: EventKind.LAYER_STATISTICS,
    LogLine: EventKind.LOG_LINE,
    Checkpointed: EventKind.CHECKPOINTED,
    Resumed: EventKind.RESUMED,
}

ENDED = frozenset({TrainingJob.SUCCEEDED, TrainingJob.FAILED, TrainingJob.CANCELLED})
"""The final states."""


@dataclass(frozen=True)
class Event:
    """Something that happened in a job. Tell kinds apart with isinstance or match on `detail`."""

    cursor: str
    """Give it to watch() to go on after this event."""
    time: datetime
    """When it happened, UTC."""
    attempt: int
    """The attempt it belongs to, counted from 1; 0: none yet."""
    detail: Detail

    @property
    def ends_job(self) -> bool:
        """Whether this is the last event of the job."""
        return isinstance(self.detail, StateChange) and self.detail.state in ENDED


def from_response(response: WatchTrainingJobResponse) -> Event | None:
    """The event of one message of the watch stream; None for a kind that this version does not know."""
    event = response.event
    which = event.WhichOneof("kind")
    if which is None:
        return None
    return Event(response.cursor, event.time.ToDatetime(tzinfo=UTC), event.attempt, getattr(event, which))


def state_name(job: TrainingJob) -> str:
    """The job's state as a word, for example RUNNING."""
    return TrainingJob.State.Name(job.state)
