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
    Checkpointed,
    Ended,
    Evaluation,
    Event,
    LayerStatistics,
    LogLine,
    PhaseChange,
    Resumed,
    StepMetrics,
)

REPORTED = (PhaseChange, StepMetrics, Evaluation, LayerStatistics, LogLine, Checkpointed, Resumed)
"""What workers say that becomes part of the job's log."""

LONGEST_TEXT = 16384
"""Characters of a log line or a failure's cause: one message must not outgrow what a stream can carry."""


def try_again(job_id: str) -> str:
    """What to do after a failure that was not the job's own."""
    return f"submit it again: batchyard job rerun {job_id}; what its workers wrote: batchyard job logs {job_id}"


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
    """An attempt begins, at the newest checkpoint if there is one."""
    at = job.progress.checkpoint_step if job.progress else None
    progress = None if at is None else Progress(step=at, steps=_steps(job), checkpoint_step=at)
    started = dataclasses.replace(job, attempt=job.attempt + 1, progress=progress, start_time=job.start_time or now)
    return _to(started, State.STARTING, now)


def pause(job: Job, now: float) -> Step:
    """A user asks the job to pause. Raises PreconditionError when it is being cancelled or has ended."""
    if job.state in (State.PAUSING, State.PAUSED):
        return Step(job)
    if job.ended or job.state == State.CANCELLING:
        raise _impossible(job, "paused")
    return _to(job, State.PAUSED if job.state == State.QUEUED else State.PAUSING, now)


def resume(job: Job, now: float) -> Step:
    """A user has the job go on. Raises PreconditionError when it is PAUSING, is being cancelled or has ended."""
    if job.state in (State.QUEUED, State.STARTING, State.RUNNING):
        return Step(job)
    if job.state != State.PAUSED:
        raise _impossible(job, "resumed")
    return _to(job, State.QUEUED, now)


def _impossible(job: Job, what: str) -> PreconditionError:
    why = {
        State.PAUSING: f"its workers are writing a checkpoint; wait until it is {State.PAUSED}, then try again",
        State.CANCELLING: f"a job that is being cancelled cannot be {what}",
    }.get(job.state, f"a job that has ended cannot be {what}")
    return PreconditionError(
        f"{names.job(job.id)} is {job.state}: {why}",
        reason="JOB_ENDED" if job.ended else f"JOB_{job.state}",
        metadata={"name": names.job(job.id), "state": job.state.value},
    )


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
        if not isinstance(event, REPORTED):
            continue  # Published and Ended are no part of the log: what they lead to is
        if step.job.state == State.STARTING and not isinstance(event, LogLine):
            step = step.then(_to(step.job, State.RUNNING, now))
        step = step.then(Step(_advance(step.job, event), (_presentable(event, now),)))
    return step


def end(
    job: Job,
    ended: Ended,
    now: float,
    model_version: str | None = None,
    failures: int = 0,
    preempted_by: str | None = None,
) -> Step:
    """The attempt has ended, and nothing of it runs any more. `failures`, `preempted_by`: see `fail`."""
    if ended.outcome == "succeeded":
        return _succeed(job, now, model_version)
    if ended.outcome in ("cancelled", "paused"):
        return interrupt(job, now)
    failure = Failure(
        failure_class=ended.failure_class or "infrastructure",
        cause=_text(ended.cause or "the attempt failed and gave no cause"),
        next_step=_text(ended.next_step or try_again(job.id)),
    )
    return fail(job, failure, now, failures, preempted_by)


def give_way(job: Job, to: str, now: float) -> Step:
    """The job is to make room for one of higher priority: it says so, and is QUEUED again when its workers are gone."""
    text = f"gives way to {names.job(to)}, which has a higher priority: it goes on when there is room again"
    return report(job, [LogLine(time=now, level="INFO", text=text)], now)


def interrupt(job: Job, now: float) -> Step:
    """The attempt was stopped: because a user wanted that, or else so that the job goes on later in another one."""
    wanted = {State.CANCELLING: State.CANCELLED, State.PAUSING: State.PAUSED}
    return _to(job, wanted.get(job.state, State.QUEUED), now)


def fail(job: Job, failure: Failure, now: float, failures: int = 0, preempted_by: str | None = None) -> Step:
    """The attempt has failed; so has the job, unless another attempt may do better.

    `failures` counts the job's earlier attempts that failed for reasons of the infrastructure: as many as the spec's
    `retries` are made up for. A user's error would come again. A job that was to stop anyway, because its user wanted
    that or to make room for `preempted_by`, does as it was asked.
    """
    asked = job.state in (State.CANCELLING, State.PAUSING) or preempted_by is not None
    if failure.failure_class == "user" or not (asked or failures < job.spec.get("retries", 0)):
        return _to(dataclasses.replace(job, failure=failure), State.FAILED, now)
    said = Step(job)
    if job.state != State.CANCELLING:
        text = _retry(job, failure, failures, preempted_by)
        said = report(job, [LogLine(time=now, level="WARNING", text=text)], now)
    return said.then(interrupt(said.job, now))


def _retry(job: Job, failure: Failure, failures: int, preempted_by: str | None) -> str:
    at = job.progress.checkpoint_step if job.progress else None
    where = "the beginning" if at is None else f"the checkpoint of step {at}"
    if job.state == State.PAUSING:
        when = "when it is resumed"
    elif preempted_by is not None:
        when = f"after {names.job(preempted_by)}, to which it was giving way"
    else:
        when = f"retry {failures + 1} of {job.spec['retries']}"
    return f"attempt {job.attempt} failed ({failure.failure_class}); it goes on from {where}, {when}: {failure.cause}"


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
    progress = job.progress or Progress(steps=_steps(job))
    if isinstance(event, PhaseChange):
        progress = dataclasses.replace(progress, phase=event.phase)
    elif isinstance(event, Checkpointed):
        progress = dataclasses.replace(progress, checkpoint_step=event.step)
    elif isinstance(event, Resumed):
        progress = Progress(
            phase=progress.phase, step=event.step, steps=progress.steps, checkpoint_step=event.step or None
        )
    elif isinstance(event, Evaluation):
        progress = dataclasses.replace(progress, evaluation_accuracy=_finite(event.accuracy))
    elif isinstance(event, StepMetrics):
        progress = _stepped(progress, event)
        job = dataclasses.replace(job, first_step_time=job.first_step_time or _finite(event.time))
    else:
        return job
    return dataclasses.replace(job, progress=progress)


def _steps(job: Job) -> int:
    """Of the whole job; 0 while that depends on the data, in a job of so many epochs."""
    return int(job.spec.get("steps") or 0)


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
