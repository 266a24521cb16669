"""What happens to a job, as pure functions: a job and what came in, to the job after and the events to store.

Every change of state goes through `_to`, which holds the table of legal transitions and writes a StateChange.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

from batchyard.control import names
from batchyard.control.records import Failure, Job, Progress, StateChange
from batchyard.control.states import State, check_transition
from batchyard.endpoint.errors import PreconditionError
from batchyard.training.events import (
    Ended,
    Evaluation,
    Event,
    LayerStatistics,
    LogLine,
    PhaseChange,
    StepMetrics,
)

LONGEST_TEXT = 16384
"""Characters of a log line or a failure's cause: one message must not outgrow what a stream can carry."""

SUBMIT_AGAIN = "submit the job again: batchyard submit JOB.yaml"

SERVICE_STOPPED = Failure(
    failure_class="infrastructure",
    cause="the service was stopped while the job ran",
    next_step=f"start the service and {SUBMIT_AGAIN}",
)


@dataclass(frozen=True)
class Step:
    """A job after something happened, and the events that say so, in order."""

    job: Job
    events: tuple[Event, ...] = ()

    def then(self, after: Step) -> Step:
        """One step out of two: this, and one taken from the job it led to."""
        return Step(after.job, self.events + after.events)


def accept(job: Job) -> Step:
    """A new job's first event."""
    return Step(job, (StateChange(time=job.create_time, state=job.state),))


def begin(job: Job, now: float) -> Step:
    """An attempt begins."""
    started = dataclasses.replace(job, attempt=job.attempt + 1, progress=None, start_time=job.start_time or now)
    return _to(started, State.STARTING, now)


def cancel(job: Job, now: float) -> Step:
    """A user asks the job to stop. Raises PreconditionError when it has SUCCEEDED or FAILED."""
    if job.state in (State.CANCELLING, State.CANCELLED):
        return Step(job)
    if job.ended:
        raise PreconditionError(
            f"{names.job(job.id)} has {job.state}: a job that has ended cannot be cancelled",
            reason="JOB_ENDED",
            metadata={"name": names.job(job.id), "state": job.state.value},
        )
    waiting = job.state in (State.QUEUED, State.PAUSED)
    return _to(job, State.CANCELLED if waiting else State.CANCELLING, now)


def report(job: Job, events: Iterable[Event], now: float) -> Step:
    """Workers have reported. The first report of a STARTING job makes it RUNNING."""
    step = Step(job)
    for event in events:
        if not isinstance(event, PhaseChange | StepMetrics | Evaluation | LayerStatistics | LogLine):
            continue  # Published and Ended are no part of the log: what they lead to is
        if step.job.state == State.STARTING and not isinstance(event, LogLine):
            step = step.then(_to(step.job, State.RUNNING, now))
        step = step.then(Step(_advance(step.job, event), (_presentable(event, now),)))
    return step


def end(job: Job, ended: Ended, now: float, model_version: str | None = None) -> Step:
    """The attempt has ended, and nothing of it runs any more."""
    if ended.outcome == "succeeded":
        return _succeed(job, now, model_version)
    if ended.outcome == "cancelled":
        return _to(job, State.CANCELLED, now) if job.state == State.CANCELLING else fail(job, SERVICE_STOPPED, now)
    failure = Failure(
        failure_class=ended.failure_class or "infrastructure",
        cause=_text(ended.cause or "the attempt failed and gave no cause"),
        next_step=_text(ended.next_step or SUBMIT_AGAIN),
    )
    return fail(job, failure, now)


def fail(job: Job, failure: Failure, now: float) -> Step:
    """The job cannot go on. One that was being cancelled and lost its machine is what its user wanted: CANCELLED."""
    if job.state == State.CANCELLING and failure.failure_class != "user":
        return _to(job, State.CANCELLED, now)
    return _to(dataclasses.replace(job, failure=failure), State.FAILED, now)


def _succeed(job: Job, now: float, model_version: str | None) -> Step:
    step = Step(dataclasses.replace(job, model_version=model_version))
    if job.state == State.STARTING:
        step = step.then(_to(step.job, State.RUNNING, now))
    return step.then(_to(step.job, State.SUCCEEDED, now))


def _to(job: Job, state: State, now: float) -> Step:
    check_transition(job.id, job.state, state)
    moved = dataclasses.replace(job, state=state)
    if moved.ended:
        moved = dataclasses.replace(moved, end_time=now)
    event = StateChange(time=now, state=state, failure=moved.failure, model_version=moved.model_version)
    return Step(moved, (event,))


def _advance(job: Job, event: Event) -> Job:
    """The job with its progress brought up to date."""
    progress = job.progress or Progress(steps=job.spec["steps"])
    if isinstance(event, PhaseChange):
        progress = dataclasses.replace(progress, phase=event.phase)
    elif isinstance(event, Evaluation):
        progress = dataclasses.replace(progress, evaluation_accuracy=_finite(event.accuracy))
    elif isinstance(event, StepMetrics):
        progress = _stepped(progress, event)
        job = dataclasses.replace(job, first_step_time=job.first_step_time or _finite(event.time))
    else:
        return job
    return dataclasses.replace(job, progress=progress)


def _stepped(progress: Progress, event: StepMetrics) -> Progress:
    first = progress.first_step is None
    return dataclasses.replace(
        progress,
        step=event.step,
        steps=event.steps,
        loss=_finite(event.loss),
        accuracy=_finite(event.accuracy),
        samples_per_second=_finite(event.samples_per_second),
        first_step=event.step if first else progress.first_step,
        first_time=_finite(event.time) if first else progress.first_time,
        last_time=_finite(event.time),
    )


def _presentable(event: Event, now: float) -> Event:
    """The event with a time that is one, and a text that every store and message can hold."""
    if not (math.isfinite(event.time) and 0 <= event.time < 1e11):
        event = dataclasses.replace(event, time=now)
    if isinstance(event, LogLine):
        event = dataclasses.replace(event, text=_text(event.text))
    return event


def _text(given: str) -> str:
    if len(given) > LONGEST_TEXT:
        given = f"{given[:LONGEST_TEXT]} ... ({len(given) - LONGEST_TEXT} more characters)"
    return given.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
