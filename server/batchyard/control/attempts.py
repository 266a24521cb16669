"""Tries at jobs, as the database knows them: the scheduler's way to read and write.

A write carries the attempt's number and the cursor it goes on from. One that comes from a stale attempt, or from a
stale reader of the present one, raises StaleWriteError and changes nothing: that is the fence.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from sqlalchemy import Connection

from batchyard.artifact.manifest import Manifest
from batchyard.cluster.executor import Attempt, AttemptId, Batch
from batchyard.control import lifecycle, names
from batchyard.control.ledger import Ledger, Unit
from batchyard.control.lifecycle import Step
from batchyard.control.records import Failure, Job
from batchyard.control.states import State
from batchyard.control.store import checkpoints, models
from batchyard.control.store import jobs as store
from batchyard.control.store.jobs import AttemptRow, QueuedJob, StaleWriteError
from batchyard.failpoints import failpoint
from batchyard.training.events import Ended, LogLine, Published


@dataclass(frozen=True, kw_only=True)
class Try:
    """A job's present attempt, as far as it is stored."""

    job: Job
    attempt: Attempt
    cursor: int = 0
    """How many of the executor's events are stored."""
    published: Published | None = None
    over: bool = False
    """Whether it has ended; the job may go on in another one."""
    preempted_by: str | None = None
    """The id of the job that it was told to give way to."""

    @property
    def id(self) -> AttemptId:
        """The job's id and the attempt's number."""
        return self.attempt.id

    @property
    def workers(self) -> int:
        """Worker processes."""
        return int(self.job.spec["workers"]["count"])

    @property
    def gpus(self) -> int:
        """GPUs of all workers."""
        return self.workers * int(self.job.spec["workers"]["gpus_per_worker"])


@dataclass(frozen=True, kw_only=True)
class Publication:
    """An artifact that was found whole: what becomes a version."""

    artifact_uri: str
    manifest_sha256: str
    manifest: Manifest


class Attempts:
    """Begins tries and writes down what becomes of them."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        artifacts: str,
        checkpoints: str,
        data_folders: tuple[str, ...],
        allow_python: tuple[str, ...] = (),
    ) -> None:
        """`artifacts` and `checkpoints` are fsspec URIs of folders, below which every attempt's artifact, and every
        job's checkpoints, get their own.
        """
        self._ledger = ledger
        self._artifacts = artifacts.rstrip("/")
        self._checkpoints = checkpoints.rstrip("/")
        self._data_folders = data_folders
        self._allow_python = allow_python

    async def queued(self) -> list[QueuedJob]:
        """The jobs that wait, in order."""
        return await self._ledger.read(store.queued)

    async def unfinished(self) -> list[Try]:
        """The attempts that an executor may be running."""

        def read(connection: Connection) -> list[Try]:
            return [self._try(job, store.attempt(connection, job)) for job in store.active(connection)]

        return await self._ledger.read(read)

    async def begin(self, job_id: str) -> Try | None:
        """Begins the next attempt of a queued job; None when it does not wait any more."""
        begun = await self._ledger.write(lambda unit: self._begin(unit, job_id))
        failpoint("begin.after_commit")
        return begun

    async def record(self, given: Try, batch: Batch, publication: Publication | None) -> Try:
        """Stores a batch of events with what it means for the job, all in one transaction. Raises StaleWriteError.

        `publication` becomes a version when the batch ends with success.
        """
        recorded = await self._ledger.write(lambda unit: self._record(unit, given, batch, publication))
        failpoint("record.after_commit")
        return recorded

    async def fail(self, given: Try, failure: Failure) -> None:
        """Ends the attempt because it cannot go on. Raises StaleWriteError."""

        def write(unit: Unit) -> None:
            job, row = _present(unit, given)
            failures = checkpoints.failures(unit.connection, job)
            unit.save(job, lifecycle.fail(job, failure, unit.now, failures, row.preempted_by))
            ending = {"outcome": "failed", "failure_class": _class(failure.failure_class, row)}
            store.save_attempt(unit.connection, job, row, end_time=unit.now, **ending)
            failpoint("fail.before_commit")

        await self._ledger.write(write)
        failpoint("fail.after_commit")

    async def interrupt(self, given: Try) -> None:
        """Ends an attempt that was stopped without a word; its job goes on in another one. Raises StaleWriteError."""

        def write(unit: Unit) -> None:
            job, row = _present(unit, given)
            unit.save(job, lifecycle.interrupt(job, unit.now))
            store.save_attempt(unit.connection, job, row, end_time=unit.now, outcome="cancelled")
            failpoint("interrupt.before_commit")

        await self._ledger.write(write)
        failpoint("interrupt.after_commit")

    async def preempt(self, given: Try, by: str) -> Try | None:
        """Notes that the attempt gives way to the job `by`; None when it has ended or is being stopped anyway."""

        def write(unit: Unit) -> Try | None:
            job = store.find(unit.connection, given.id.job)
            if job is None or job.attempt != given.id.number or job.state not in (State.STARTING, State.RUNNING):
                return None
            row = store.attempt(unit.connection, job)
            job = unit.save(job, lifecycle.give_way(job, by, unit.now))
            store.save_attempt(unit.connection, job, row, preempted_by=by)
            return dataclasses.replace(given, preempted_by=by)

        return await self._ledger.write(write)

    async def warn(self, job_id: str, text: str) -> None:
        """Writes a line for people into the log of a job that waits."""

        def write(unit: Unit) -> None:
            job = store.find(unit.connection, job_id)
            if job is not None and job.state == State.QUEUED:
                line = LogLine(time=unit.now, level="WARNING", text=text)
                unit.save(job, lifecycle.report(job, [line], unit.now))

        await self._ledger.write(write)

    def _begin(self, unit: Unit, job_id: str) -> Try | None:
        job = store.find(unit.connection, job_id)
        if job is None or job.state != State.QUEUED:
            return None
        job = unit.save(job, lifecycle.begin(job, unit.now))
        store.add_attempt(unit.connection, job, f"{self._artifacts}/{job.id}-{job.attempt}", unit.now)
        failpoint("begin.before_commit")
        return self._try(job, store.attempt(unit.connection, job))

    def _record(self, unit: Unit, given: Try, batch: Batch, publication: Publication | None) -> Try:
        job, row = _present(unit, given)
        step = lifecycle.report(job, batch.events, unit.now)
        ended = next((event for event in batch.events if isinstance(event, Ended)), None)
        if ended is not None:
            step = step.then(_end(unit, step.job, ended, publication, row.preempted_by))
        job = unit.save(job, step, batch.events)
        checkpoints.record(unit.connection, job, batch.events)
        if job.state == State.SUCCEEDED:
            checkpoints.retire(unit.connection, job)
        published = next((event for event in batch.events if isinstance(event, Published)), given.published)
        store.save_attempt(
            unit.connection,
            job,
            row,
            cursor=batch.cursor,
            published_uri=published and published.artifact_uri,
            published_sha256=published and published.manifest_sha256,
            end_time=unit.now if ended else None,
            outcome=ended and ended.outcome,
            failure_class=ended and _class(ended.failure_class, row),
        )
        failpoint("record.before_commit")
        if ended is not None:
            failpoint("end.before_commit")
        return dataclasses.replace(given, job=job, cursor=batch.cursor, published=published, over=ended is not None)

    def _try(self, job: Job, row: AttemptRow) -> Try:
        attempt = Attempt(
            id=AttemptId(job=job.id, number=row.number),
            spec=dict(job.spec),
            artifact_uri=row.artifact_uri,
            checkpoint_uri=self._folder_of(job, row.resume_from),
            resume_from=row.resume_from,
            data_folders=self._data_folders,
            allow_python=self._allow_python,
        )
        published = None
        if row.published_uri is not None and row.published_sha256 is not None:
            published = Published(artifact_uri=row.published_uri, manifest_sha256=row.published_sha256)
        return Try(job=job, attempt=attempt, cursor=row.cursor, published=published, preempted_by=row.preempted_by)

    def _folder_of(self, job: Job, resume_from: str | None) -> str:
        """Where the job's checkpoints go: beside the one that it goes on from, wherever that is."""
        before = (resume_from or "").rstrip("/").rpartition("/")[0]
        return before if before.endswith(f"/{job.id}") else f"{self._checkpoints}/{job.id}"


def _present(unit: Unit, given: Try) -> tuple[Job, AttemptRow]:
    """The job and its attempt as they are now, if `given` is still the present one."""
    job = store.find(unit.connection, given.id.job)
    if job is None or job.ended or job.attempt != given.id.number:
        raise StaleWriteError(f"attempt {given.id} is over")
    row = store.attempt(unit.connection, job)
    if row.end_time is not None:
        raise StaleWriteError(f"attempt {given.id} has ended")
    if row.cursor != given.cursor:
        raise StaleWriteError(f"attempt {given.id} was read up to {row.cursor}, not {given.cursor}")
    return job, row


def _class(failure_class: str | None, row: AttemptRow) -> str | None:
    """What is told of an attempt that failed: while it gave way, that was no failure that counts."""
    return "preempted" if failure_class == "infrastructure" and row.preempted_by is not None else failure_class


def _end(unit: Unit, job: Job, ended: Ended, publication: Publication | None, preempted_by: str | None) -> Step:
    version = None
    if ended.outcome == "succeeded" and publication is not None:
        failpoint("registry.before_row")
        added = models.add_version(
            unit.connection, publication.manifest, publication.artifact_uri, publication.manifest_sha256, unit.now
        )
        failpoint("registry.after_row")
        version = names.version(added.model, added.number)
        alias = job.spec["publish"].get("alias")
        if alias is not None:
            models.set_alias(unit.connection, added.model, alias, added.number)
        unit.models_changed = True
    failures = checkpoints.failures(unit.connection, job)
    return lifecycle.end(job, ended, unit.now, version, failures, preempted_by)
