"""Who of the jobs that wait may start, and who gives way to them: one pure function, which the scheduler acts on and
ExplainTrainingJob tells.

All workers of a job start, or none. Of those that are ready the first in order (of higher priority, then older) that
finds no room holds all others back, so nobody starves behind jobs that are easier to place; and it has running jobs of
lower priority give way, if that makes room for it. A job whose user has as much running as one user may holds back
that user's later ones alone, and makes nobody give way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from batchyard.cluster.executor import Capacity
from batchyard.control.quotas import NO_QUOTA, NOTHING_SHARED, Quota, Share, shares
from batchyard.control.store.jobs import QueuedJob

NOTHING = Capacity(workers=0, gpus=0)


class Verdict(StrEnum):
    """What becomes of a job that waits, and why; the names are those of the API."""

    STARTS = "STARTS"
    """There is room and it is its turn."""
    CLEARING_UP = "CLEARING_UP"
    """Its last attempt is still being cleared away."""
    BACKING_OFF = "BACKING_OFF"
    """Its last attempt failed, and it waits a little before the next one. Those behind it need not."""
    CLUSTER_SILENT = "CLUSTER_SILENT"
    """The cluster cannot be asked what it has."""
    TOO_LARGE = "TOO_LARGE"
    """It needs more than the whole cluster has; it was accepted when there was more. Those behind it need not wait."""
    OVER_QUOTA = "OVER_QUOTA"
    """Its user has as much running as one user may, or a job of that user before it waits for this. Others need not."""
    NO_ROOM = "NO_ROOM"
    """It is the next one, and what it needs is in use."""
    BEHIND = "BEHIND"
    """A job before it waits for room: nobody overtakes the job that is next."""


@dataclass(frozen=True, kw_only=True)
class Holding:
    """An attempt that holds a part of the cluster."""

    job: str
    user: str
    priority: int
    workers: int
    gpus: int
    """Of all its workers."""
    preemptible: bool = True
    leaving: bool = False
    """Whether it has been asked to pause, to stop or to give way: what it holds will soon be free."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A waiting job's place in the queue."""

    job: QueuedJob
    verdict: Verdict
    fits: bool | None
    """Whether the cluster could run it with nothing else to do; None: the cluster cannot be asked."""
    seconds: float = 0.0
    """How much longer it backs off."""
    preempts: tuple[str, ...] = ()
    """The running jobs that are to give way to it now."""


@dataclass(frozen=True, kw_only=True)
class Queue:
    """The queue at one moment."""

    places: tuple[Place, ...]
    """In order: of higher priority first, then older ones."""
    capacity: Capacity | None
    """What the cluster could run at once if it were idle; None: it cannot be asked."""
    used: Capacity
    """What the attempts that run hold of it."""
    running: tuple[str, ...]
    """The ids of their jobs."""
    quota: Quota = NO_QUOTA
    shares: Mapping[str, Share] = field(default_factory=dict)
    """What each user has running."""
    giving_way: Mapping[str, str] = field(default_factory=dict)
    """Running jobs that give way, and the jobs that they give way to."""


def admit(
    queued: Iterable[QueuedJob],
    capacity: Capacity | None,
    running: Sequence[Holding],
    backing_off: Mapping[str, float],
    quota: Quota = NO_QUOTA,
) -> tuple[Place, ...]:
    """A verdict on each job of `queued`, in this order. Those that start are counted as using the cluster.

    `running` is in the order in which it was begun; a queued job that is in it is one whose last attempt is not gone
    yet. `backing_off` gives the seconds that a job still has to wait, 0 or nothing for one that has not.
    """
    places: list[Place] = []
    used, taken = in_use(running), dict(shares(running))
    clearing_up = {each.job for each in running}
    over_quota: set[str] = set()
    held = False
    for job in queued:
        wait = backing_off.get(job.id, 0.0)
        verdict = _verdict(job, capacity, used, held)
        if job.id in clearing_up:
            verdict = Verdict.CLEARING_UP
        elif wait > 0:
            verdict = Verdict.BACKING_OFF
        elif verdict not in (Verdict.CLUSTER_SILENT, Verdict.TOO_LARGE):
            share = taken.get(job.user, NOTHING_SHARED).plus(job.workers, job.gpus)
            if job.user in over_quota or not quota.allows(share):
                over_quota.add(job.user)
                verdict = Verdict.OVER_QUOTA
            elif verdict == Verdict.STARTS:
                taken[job.user] = share
                used = Capacity(workers=used.workers + job.workers, gpus=used.gpus + job.gpus)
        preempts: tuple[str, ...] = ()
        if verdict == Verdict.NO_ROOM and capacity is not None:
            preempts = _victims(job, capacity, used, running)
        held = held or verdict == Verdict.NO_ROOM
        fits = None if capacity is None else _within(job, NOTHING, capacity)
        places.append(Place(job=job, verdict=verdict, fits=fits, seconds=wait, preempts=preempts))
    return tuple(places)


def in_use(running: Iterable[Holding]) -> Capacity:
    """What these hold together."""
    listed = list(running)
    return Capacity(workers=sum(each.workers for each in listed), gpus=sum(each.gpus for each in listed))


def _verdict(job: QueuedJob, capacity: Capacity | None, used: Capacity, held: bool) -> Verdict:
    """On a job that is ready to start; `held`: one before it waits for room."""
    if capacity is None:
        return Verdict.CLUSTER_SILENT
    if not _within(job, NOTHING, capacity):
        return Verdict.TOO_LARGE
    if held:
        return Verdict.BEHIND
    return Verdict.STARTS if _within(job, used, capacity) else Verdict.NO_ROOM


def _within(job: QueuedJob, used: Capacity, capacity: Capacity) -> bool:
    return used.workers + job.workers <= capacity.workers and used.gpus + job.gpus <= capacity.gpus


def _victims(job: QueuedJob, capacity: Capacity, used: Capacity, running: Sequence[Holding]) -> tuple[str, ...]:
    """The fewest it takes, going from the lowest priority up and from the newest back; nobody when what leaves anyway
    makes room, or when not even all of them would.
    """
    left = _less(used, [each for each in running if each.leaving])
    may = [each for each in running if each.preemptible and not each.leaving and each.priority < job.priority]
    may.reverse()
    order = sorted(may, key=lambda each: each.priority)
    chosen: list[Holding] = []
    for each in order:
        if _within(job, _less(left, chosen), capacity):
            break
        chosen.append(each)
    if not _within(job, _less(left, chosen), capacity):
        return ()
    for each in reversed(chosen):  # one that was taken early may not be needed beside a later, larger one
        others = [other for other in chosen if other is not each]
        if _within(job, _less(left, others), capacity):
            chosen = others
    return tuple(each.job for each in chosen)


def _less(used: Capacity, gone: Iterable[Holding]) -> Capacity:
    freed = in_use(gone)
    return Capacity(workers=used.workers - freed.workers, gpus=used.gpus - freed.gpus)
