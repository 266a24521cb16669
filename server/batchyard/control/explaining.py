"""Gathers why a job is where it is. What it says of the queue is what the scheduler decides by."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sqlalchemy import Connection

from batchyard.control.admission import Place, Queue, Verdict
from batchyard.control.clock import Clock
from batchyard.control.explanation import Explanation, Waiting
from batchyard.control.jobs import Jobs
from batchyard.control.ledger import Ledger
from batchyard.control.quotas import NOTHING_SHARED
from batchyard.control.records import AttemptSummary, Checkpoint, Job
from batchyard.control.states import State
from batchyard.control.store import checkpoints
from batchyard.control.store import jobs as store

MOST_WAITING = 50
"""Jobs that one look at the queue explains."""

Facts = tuple[Job, tuple[AttemptSummary, ...], Checkpoint | None]


class Explaining:
    """Explains jobs."""

    def __init__(self, ledger: Ledger, jobs: Jobs, queue: Callable[[], Awaitable[Queue]], clock: Clock) -> None:
        """`queue` is the scheduler's; `clock` the one by which times are stored."""
        self._ledger = ledger
        self._jobs = jobs
        self._queue = queue
        self._clock = clock

    async def explain(self, job_id: str) -> Explanation:
        """Why the job is where it is now. Raises NotFoundError."""
        job = await self._jobs.get(job_id)
        queue = await self._queue()
        job, attempts, checkpoint = await self._ledger.read(lambda connection: _facts(connection, job))
        waiting = self._waiting(job, queue) if job.state == State.QUEUED else None
        gives_way_to = queue.giving_way.get(job.id) if job.state in (State.STARTING, State.RUNNING) else None
        return Explanation(
            job=job, attempts=attempts, checkpoint=checkpoint, waiting=waiting, gives_way_to=gives_way_to
        )

    async def waiting(self) -> tuple[Queue, tuple[Explanation, ...]]:
        """The queue, and why each of its first MOST_WAITING jobs waits; attempts and checkpoints are left out."""
        queue = await self._queue()
        ids = [place.job.id for place in queue.places[:MOST_WAITING]]
        jobs = await self._ledger.read(lambda connection: [store.find(connection, each) for each in ids])
        waiting = [job for job in jobs if job is not None and job.state == State.QUEUED]
        return queue, tuple(
            Explanation(job=job, attempts=(), checkpoint=None, waiting=self._waiting(job, queue)) for job in waiting
        )

    def _waiting(self, job: Job, queue: Queue) -> Waiting:
        ids = [place.job.id for place in queue.places]
        at = ids.index(job.id) if job.id in ids else len(ids)
        place = queue.places[at] if at < len(ids) else _last(job, queue)
        backs_off = place.verdict == Verdict.BACKING_OFF
        return Waiting(
            place=place,
            position=at + 1,
            ahead=queue.places[:at],
            capacity=queue.capacity,
            used=queue.used,
            running=queue.running,
            retry_time=self._clock.now() + place.seconds if backs_off else None,
            quota=queue.quota,
            share=queue.shares.get(job.user, NOTHING_SHARED),
            giving_way=tuple(each for each, to in queue.giving_way.items() if to == job.id),
        )


def _facts(connection: Connection, job: Job) -> Facts:
    now = store.find(connection, job.id) or job
    return now, tuple(store.attempt_summaries(connection, now)), checkpoints.newest(connection, now)


def _last(job: Job, queue: Queue) -> Place:
    """The place of a job that came into the queue after it was read, or beyond the length that is read of it."""
    workers = job.spec["workers"]
    gpus = workers["count"] * workers["gpus_per_worker"]
    priority = job.spec.get("priority", 0)
    waits = store.QueuedJob(id=job.id, user=job.user, priority=priority, workers=workers["count"], gpus=gpus)
    verdict = Verdict.CLUSTER_SILENT if queue.capacity is None else Verdict.BEHIND
    return Place(job=waits, verdict=verdict, fits=None)
