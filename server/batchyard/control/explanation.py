"""Why a job is where it is: the numbers, and the words for them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from batchyard.cluster.executor import Capacity
from batchyard.control.admission import Place, Verdict
from batchyard.control.quotas import NO_QUOTA, NOTHING_SHARED, Quota, Share, amount
from batchyard.control.records import AttemptSummary, Checkpoint, Job
from batchyard.control.states import State


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A QUEUED job's place."""

    place: Place
    position: int
    """1: the next one."""
    ahead: tuple[Place, ...]
    """The jobs before it, in order."""
    capacity: Capacity | None
    """Of the whole cluster; None: it cannot be asked."""
    used: Capacity
    """By what runs."""
    running: tuple[str, ...]
    """The ids of the jobs that use it."""
    retry_time: float | None
    """Until when it backs off, seconds since the epoch."""
    quota: Quota = NO_QUOTA
    share: Share = NOTHING_SHARED
    """What its user has running."""
    giving_way: tuple[str, ...] = ()
    """The ids of running jobs that make room for it."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a job is where it is."""

    job: Job
    attempts: tuple[AttemptSummary, ...]
    """Oldest first."""
    checkpoint: Checkpoint | None
    """The newest one."""
    waiting: Waiting | None
    """None unless it is QUEUED."""
    gives_way_to: str | None = None
    """The id of the job that it makes room for while it still runs."""

    @property
    def summary(self) -> str:
        """A sentence or two for people."""
        if self.waiting is not None:
            last = self.attempts[-1].preempted_by if self.attempts else None
            gave_way = f"it was preempted by {last}, and costs no retry; " if last else ""
            return gave_way + _waits(self.waiting)
        job = self.job
        if self.gives_way_to is not None:
            return f"it is preempted by {self.gives_way_to}: it writes a checkpoint and waits ({_progress(job)})"
        return _SUMMARIES[job.state].format(
            attempt=job.attempt,
            progress=_progress(job),
            checkpoint=f"the checkpoint of step {self.checkpoint.step}" if self.checkpoint else "the beginning",
            published=f"; it published {job.model_version}" if job.model_version else "; it was not to be published",
            cause=job.failure.cause if job.failure else "",
            failure_class=job.failure.failure_class if job.failure else "",
        )

    @property
    def next_step(self) -> str:
        """What to run or do next."""
        job = self.job
        if job.failure is not None:
            return job.failure.next_step
        if self.waiting is not None and self.waiting.place.verdict == Verdict.TOO_LARGE:
            workers = self.waiting.place.job.workers
            return (
                f"start the service with --workers {workers} or on a larger cluster, or: batchyard job cancel {job.id}"
            )
        if self.waiting is not None and self.waiting.place.verdict == Verdict.CLUSTER_SILENT:
            return "look into the service's log, which says why the cluster does not answer"
        model = (job.model_version or "").removeprefix("models/").partition("/")[0]
        return f"batchyard model show {model}" if model else _NEXT_STEPS[job.state].format(id=job.id)


def _waits(waiting: Waiting) -> str:
    place = waiting.place
    needs = _amount(place.job.workers, place.job.gpus)
    match place.verdict:
        case Verdict.STARTS:
            return f"it is starting: it needs {needs}, and there is room"
        case Verdict.CLEARING_UP:
            return "its last attempt is still being cleared away; then it waits for its turn again"
        case Verdict.BACKING_OFF:
            return (
                f"its last attempt failed; it is tried again in {place.seconds:.1f} s. {_ever(waiting, needs)}".strip()
            )
        case Verdict.CLUSTER_SILENT:
            return f"the cluster does not answer; it is asked again every few seconds. The job needs {needs}"
        case Verdict.TOO_LARGE:
            return f"it cannot start until the cluster is larger: {_needs_and_has(waiting, needs)}"
        case Verdict.OVER_QUOTA:
            return _over_quota(waiting, needs)
        case Verdict.NO_ROOM:
            by = f" ({', '.join(waiting.giving_way)} makes way)" if waiting.giving_way else ""
            return f"it is the next to start, and waits for room{by}: {_needs_and_has(waiting, needs)}"
        case Verdict.BEHIND:
            count = len(waiting.ahead)
            return f"{count} {'job is' if count == 1 else 'jobs are'} ahead of it: {_needs_and_has(waiting, needs)}"


def _over_quota(waiting: Waiting, needs: str) -> str:
    has, user = waiting.share, waiting.place.job.user
    who = f"user {user}" if user else "those who name no user"
    running = f"{amount(has.jobs, 'job')} with {_amount(has.workers, has.gpus)}"
    may = f"{who} may have {waiting.quota} running at once and has {running}"
    return f"it needs {needs}; {may}: it starts after one ends"


def _ever(waiting: Waiting, needs: str) -> str:
    return "" if waiting.place.fits is not False else f", and will not fit then: {_needs_and_has(waiting, needs)}"


def _needs_and_has(waiting: Waiting, needs: str) -> str:
    assert waiting.capacity is not None, "a verdict on room comes from a cluster that answered"
    has = _amount(waiting.capacity.workers, waiting.capacity.gpus)
    used = _amount(waiting.used.workers, waiting.used.gpus) if waiting.running else "nothing"
    by = f" by {', '.join(waiting.running[:3])}" if waiting.running else ""
    more = f" and {len(waiting.running) - 3} more" if len(waiting.running) > 3 else ""
    return f"it needs {needs}; the cluster has {has}; in use: {used}{by}{more}"


def _amount(workers: int, gpus: int) -> str:
    words = f"{workers} worker{'' if workers == 1 else 's'}"
    return f"{words} with {gpus} GPU{'' if gpus == 1 else 's'}" if gpus else words


def _progress(job: Job) -> str:
    progress = job.progress
    if progress is None:
        return "no worker has reported yet"
    of = f" of {progress.steps}" if progress.steps else ""
    return f"{progress.phase or 'at work'}, step {progress.step}{of}"


_SUMMARIES = {
    State.STARTING: "attempt {attempt} is starting: its workers are brought up",
    State.RUNNING: "attempt {attempt} runs: {progress}",
    State.PAUSING: "it was asked to pause: its workers write a checkpoint and end ({progress})",
    State.PAUSED: "it was asked to pause; when it is resumed it goes on from {checkpoint}",
    State.CANCELLING: "it was asked to stop: its workers are being ended ({progress})",
    State.SUCCEEDED: "it has done all its steps{published}",
    State.FAILED: "attempt {attempt} failed ({failure_class}): {cause}",
    State.CANCELLED: "it was cancelled ({progress})",
}
_NEXT_STEPS = {
    State.QUEUED: "batchyard job watch {id}",
    State.STARTING: "batchyard job watch {id}",
    State.RUNNING: "batchyard job watch {id}",
    State.PAUSING: "batchyard job wait {id} --for paused",
    State.PAUSED: "batchyard job resume {id}",
    State.CANCELLING: "batchyard job wait {id} --for ended",
    State.SUCCEEDED: "batchyard job metrics {id}",
    State.FAILED: "batchyard job logs {id}",
    State.CANCELLED: "batchyard job rerun {id}",
}
