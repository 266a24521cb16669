"""Who of the jobs that wait may start: one pure function, which the scheduler acts on and ExplainTrainingJob tells."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from batchyard.cluster.executor import Capacity
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
    NO_ROOM = "NO_ROOM"
    """It is the next one, and what it needs is in use."""
    BEHIND = "BEHIND"
    """A job before it waits for room: nobody overtakes the job that is next."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A waiting job's place in the queue."""

    job: QueuedJob
    verdict: Verdict
    fits: bool | None
    """Whether the cluster could run it with nothing else to do; None: the cluster cannot be asked."""
    seconds: float = 0.0
    """How much longer it backs off."""


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


def admit(
    queued: Iterable[QueuedJob],
    capacity: Capacity | None,
    used: Capacity,
    clearing_up: Collection[str],
    backing_off: Mapping[str, float],
) -> tuple[Place, ...]:
    """A verdict on each job of `queued`, in this order. Those that start are counted as using the cluster.

    `clearing_up` has the ids of jobs with an attempt that is not gone yet; `backing_off` gives the seconds that a job
    still has to wait, 0 or nothing for one that has not.
    """
    places: list[Place] = []
    held = False
    for job in queued:
        wait = backing_off.get(job.id, 0.0)
        verdict = _verdict(job, capacity, used, held)
        if job.id in clearing_up:
            verdict = Verdict.CLEARING_UP
        elif wait > 0:
            verdict = Verdict.BACKING_OFF
        if verdict == Verdict.STARTS:
            used = Capacity(workers=used.workers + job.workers, gpus=used.gpus + job.gpus)
        held = held or verdict == Verdict.NO_ROOM
        fits = None if capacity is None else _within(job, NOTHING, capacity)
        places.append(Place(job=job, verdict=verdict, fits=fits, seconds=wait))
    return tuple(places)


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
